package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// value reads any value with the reader, into the types that encoding/json makes of it.
func (r *reader) value() (any, error) {
	switch {
	case strings.HasPrefix(r.text[r.at:], "{"):
		object := map[string]any{}
		return object, r.object(func(key string) (err error) {
			object[key], err = r.value()
			return err
		})
	case strings.HasPrefix(r.text[r.at:], "["):
		array := []any{}
		err := r.array(func() error {
			element, err := r.value()
			array = append(array, element)
			return err
		})
		return array, err
	case strings.HasPrefix(r.text[r.at:], `"`):
		return r.string()
	case r.at < len(r.text) && '0' <= r.text[r.at] && r.text[r.at] <= '9':
		number, err := r.integer()
		return json.Number(countOf(number)), err
	}
	start := r.at
	if err := r.skip(); err != nil {
		return nil, err
	}
	return map[string]any{"null": nil, "true": true, "false": false}[r.text[start:r.at]], nil
}

func countOf(number int64) string { return string(must2(json.Marshal(number))) }

// both reads a document twice: all values, and none.
func both(data []byte) (document map[string]any, err, skipped error) {
	document = map[string]any{}
	err = readObject(data, func(r *reader, key string) (err error) {
		document[key], err = r.value()
		return err
	})
	skipped = readObject(data, func(r *reader, _ string) error { return r.skip() })
	return document, err, skipped
}

func TestReader(t *testing.T) {
	deep := func(levels int) string {
		return `{"a":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}`
	}
	tests := map[string]struct{ data, problem string }{
		"empty":               {`{}`, ""},
		"values":              {`{"":null,"a":true,"b":false,"c":[],"d":{},"e":[1,"x",{"y":[0]}],"f":9223372036854775807}`, ""},
		"escapes":             {`{"a":"\"\\\/\b\f\n\r\t\u0000\u001f\u20ac\uFFFF"}`, ""},
		"escaped key":         {`{"\u0041":1,"B":2}`, ""},
		"raw characters":      {"{\"é\u2028\U0001f600\x7f\":\"\ufffd\"}", ""},
		"100 levels":          {deep(99), ""},
		"101 levels":          {deep(100), "fewer levels"},
		"a million levels":    {`{"a":` + strings.Repeat("[", 1e6), "fewer levels"},
		"nothing":             {``, "'{' at byte 0"},
		"space at the start":  {` {}`, "'{' at byte 0"},
		"space at the end":    {`{} `, "the end at byte 2"},
		"space inside":        {`{"a": 1}`, "a value at byte 5"},
		"byte order mark":     {"\ufeff{}", "'{' at byte 0"},
		"no colon":            {`{"a"}`, "':' at byte 4"},
		"no comma":            {`{"a":1"b":2}`, "',' or '}' at byte 6"},
		"comma at the end":    {`{"a":1,}`, "a string at byte 7"},
		"wrong bracket":       {`{"a":[1}}`, "',' or ']' at byte 7"},
		"no end":              {`{"a":1`, "',' or '}' at byte 6"},
		"no value":            {`{"a":`, "a value at byte 5"},
		"key is a number":     {`{1:1}`, "a string at byte 1"},
		"same key":            {`{"a":1,"a":1}`, `a key after "a" at byte 7`},
		"same key, escaped":   {`{"a":1,"\u0061":1}`, `a key after "a" at byte 7`},
		"same empty key":      {`{"":1,"":1}`, `a key after "" at byte 6`},
		"keys not sorted":     {`{"b":1,"a":1}`, `a key after "b" at byte 7`},
		"inner key":           {`{"a":{"b":1,"b":1}}`, `a key after "b" at byte 12`},
		"leading zero":        {`{"a":01}`, "a value at byte 5"},
		"minus":               {`{"a":-1}`, "a value at byte 5"},
		"plus":                {`{"a":+1}`, "a value at byte 5"},
		"fraction":            {`{"a":1.5}`, "',' or '}' at byte 6"},
		"exponent":            {`{"a":1e5}`, "',' or '}' at byte 6"},
		"over 64 bits":        {`{"a":9223372036854775808}`, "a value at byte 5"},
		"word":                {`{"a":nul}`, "a value at byte 5"},
		"longer word":         {`{"a":nulls}`, "',' or '}' at byte 9"},
		"open string":         {`{"a`, "the rest of a string at byte 3"},
		"control character":   {"{\"a\n\":1}", "the rest of a string at byte 3"},
		"backslash at end":    {`{"a\`, "an escape sequence at byte 3"},
		"unknown escape":      {`{"a\x"}`, "an escape sequence at byte 3"},
		"short escape":        {`{"a\u12`, "an escape sequence at byte 3"},
		"escape not in hex":   {`{"a\u12g4":1}`, "an escape sequence at byte 3"},
		"escape with a sign":  {`{"a\u+123":1}`, "an escape sequence at byte 3"},
		"escape with a line":  {`{"a\u1_23":1}`, "an escape sequence at byte 3"},
		"lone surrogate":      {`{"a\ud800":1}`, "an escape sequence at byte 3"},
		"pair of surrogates":  {`{"a\ud83d\ude00":1}`, "an escape sequence at byte 3"},
		"not UTF-8":           {"{\"a\xff\":1}", "not UTF-8"},
		"surrogate in UTF-8":  {"{\"a\xed\xa0\x80\":1}", "not UTF-8"},
		"overlong NUL":        {"{\"a\xc0\x80\":1}", "not UTF-8"},
		"UTF-8 after the end": {"{}\xff", "not UTF-8"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			document, err, skipped := both([]byte(test.data))
			if test.problem == "" {
				if want := decode(t, test.data); err != nil || skipped != nil || !reflect.DeepEqual(document, want) {
					t.Errorf("got %v, %v, %v, want %v", document, err, skipped, want)
				}
				return
			}
			if skipped == nil || !strings.HasSuffix(skipped.Error(), test.problem) && !strings.Contains(skipped.Error(), test.problem+" at byte") {
				t.Errorf("got %v, want %q", skipped, test.problem)
			}
			if err == nil {
				t.Errorf("got %v", document)
			}
		})
	}
}

func decode(t *testing.T, data string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(data))
	decoder.UseNumber()
	var document map[string]any
	must(t, decoder.Decode(&document))
	return document
}

// What the reader accepts is JSON, with the values that encoding/json finds. It accepts all that
// encoding/json writes, unless a number is not a non-negative integer.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":["\u0041\n",{"b":12}],"c":null}`, `{"a":true,"b":false,"é":"\""}`, `{"a":-1}`, `{"a":"\ud800"}`, "{\"\xff\":0}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		document, err, skipped := both(data)
		if (err == nil) != (skipped == nil) {
			t.Fatalf("read: %v, skipped: %v", err, skipped)
		}
		if err == nil {
			if want := decode(t, string(data)); !json.Valid(data) || !reflect.DeepEqual(document, want) {
				t.Fatalf("got %v, want %v", document, want)
			}
			return
		}
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.UseNumber()
		var want map[string]any
		if !json.Valid(data) || !utf8.Valid(data) || decoder.Decode(&want) != nil || want == nil || !plain(want, 0) {
			return
		}
		rewritten := must2(json.Marshal(want))
		if document, err, _ := both(rewritten); err != nil || !reflect.DeepEqual(document, want) {
			t.Fatalf("%q: got %v, %v, want %v", rewritten, document, err, want)
		}
	})
}

// plain reports whether a value has no numbers but non-negative integers, and few levels.
func plain(value any, depth int) bool {
	switch value := value.(type) {
	case json.Number:
		number, err := value.Int64()
		return err == nil && number >= 0 && value.String() == countOf(number)
	case []any:
		for _, element := range value {
			if !plain(element, depth+1) {
				return false
			}
		}
	case map[string]any:
		for _, element := range value {
			if !plain(element, depth+1) {
				return false
			}
		}
	}
	return depth < maxDepth
}
