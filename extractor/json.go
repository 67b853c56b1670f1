package main

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the recursion. A manifest has five levels.
const maxDepth = 100

// A reader reads canonical JSON: UTF-8, sorted keys, no spaces, no numbers but non-negative
// integers. encoding/json would add 150 KB to the compressed program, and takes three times as long.
type reader struct {
	text      string
	at, depth int
}

// readObject reads a document that is one object.
func readObject(data []byte, member func(r *reader, key string) error) error {
	r := &reader{text: string(data)}
	if !utf8.ValidString(r.text) {
		return errors.New("not UTF-8")
	}
	if err := r.object(func(key string) error { return member(r, key) }); err != nil {
		return err
	}
	if r.at < len(r.text) {
		return r.expected("the end")
	}
	return nil
}

func (r *reader) expected(what string) error {
	return errors.New("not canonical JSON: expected " + what + " at byte " + strconv.Itoa(r.at))
}

// object reads an object. The function reads the value of a key.
func (r *reader) object(member func(key string) error) error {
	last, first := "", true
	return r.sequence('{', '}', func() error {
		start := r.at
		key, err := r.string()
		if err != nil {
			return err
		}
		if !first && key <= last {
			r.at = start
			return r.expected("a key after " + strconv.Quote(last))
		}
		last, first = key, false
		if !r.accept(':') {
			return r.expected("':'")
		}
		return member(key)
	})
}

// array reads an array. The function reads an element.
func (r *reader) array(element func() error) error { return r.sequence('[', ']', element) }

func (r *reader) sequence(open, end byte, element func() error) error {
	if !r.accept(open) {
		return r.expected(strconv.QuoteRune(rune(open)))
	}
	if r.depth++; r.depth > maxDepth {
		return r.expected("fewer levels")
	}
	defer func() { r.depth-- }()
	if r.accept(end) {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if r.accept(end) {
			return nil
		}
		if !r.accept(',') {
			return r.expected("',' or " + strconv.QuoteRune(rune(end)))
		}
	}
}

func (r *reader) accept(char byte) bool {
	found := r.at < len(r.text) && r.text[r.at] == char
	if found {
		r.at++
	}
	return found
}

func (r *reader) string() (string, error) {
	if !r.accept('"') {
		return "", r.expected("a string")
	}
	var before []byte // up to the last escape
	start := r.at
	for r.at < len(r.text) && r.text[r.at] >= ' ' {
		switch r.text[r.at] {
		case '"':
			piece := r.text[start:r.at]
			r.at++
			if before == nil {
				return piece, nil
			}
			return string(before) + piece, nil
		case '\\':
			before = append(before, r.text[start:r.at]...)
			char, err := r.escape()
			if err != nil {
				return "", err
			}
			before = utf8.AppendRune(before, char)
			start = r.at
		default:
			r.at++
		}
	}
	return "", r.expected("the rest of a string")
}

const escapes, escaped = `"\/bfnrt`, "\"\\/\b\f\n\r\t"

// escape reads a backslash and what follows. Canonical JSON escapes no surrogates.
func (r *reader) escape() (rune, error) {
	rest := r.text[r.at+1:]
	if len(rest) > 0 {
		if i := strings.IndexByte(escapes, rest[0]); i >= 0 {
			r.at += 2
			return rune(escaped[i]), nil
		}
	}
	if len(rest) >= 5 && rest[0] == 'u' {
		// ParseUint allows neither a sign nor, in base 16, an underscore.
		if char, err := strconv.ParseUint(rest[1:5], 16, 16); err == nil && utf8.ValidRune(rune(char)) {
			r.at += 6
			return rune(char), nil
		}
	}
	return 0, r.expected("an escape sequence")
}

func (r *reader) integer() (int64, error) {
	start, end := r.at, r.at
	for end < len(r.text) && '0' <= r.text[end] && r.text[end] <= '9' {
		end++
	}
	number, err := strconv.ParseInt(r.text[start:end], 10, 64)
	if err != nil || r.text[start] == '0' && end > start+1 {
		return 0, r.expected("an integer")
	}
	r.at = end
	return number, nil
}

func (r *reader) strings() (all []string, err error) {
	err = r.array(func() error {
		text, err := r.string()
		all = append(all, text)
		return err
	})
	return all, err
}

// skip reads a value of any type.
func (r *reader) skip() error {
	rest := r.text[r.at:]
	for _, word := range []string{"null", "true", "false"} {
		if strings.HasPrefix(rest, word) {
			r.at += len(word)
			return nil
		}
	}
	var err error
	switch {
	case strings.HasPrefix(rest, "{"):
		err = r.object(func(string) error { return r.skip() })
	case strings.HasPrefix(rest, "["):
		err = r.array(r.skip)
	case strings.HasPrefix(rest, `"`):
		_, err = r.string()
	default:
		if _, err = r.integer(); err != nil {
			err = r.expected("a value")
		}
	}
	return err
}
