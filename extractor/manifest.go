package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const (
	// Version 3 has the columns of version 2.
	oldestVersion, newestVersion = 2, 3

	digestVariable = "KONTEXT_MANIFEST"
	digestPrefix   = "sha256:"

	// maxManifest bounds the bytes of a manifest or part. A push writes at most 64 MiB.
	maxManifest = 256 << 20
)

// An item is one path of the manifest.
type item struct {
	kind       fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
	sha256     string      // of a file, in lower-case hex
	size       int64       // of a file
	executable bool        // of a file
	to         string      // of a link
}

// A listing is a manifest as a tree: it maps the path of a directory to the directory's items by
// name. The path of the top is ".".
type listing map[string]map[string]item

// A listed item is an item with its path.
type listed struct {
	path string
	item item
}

// A part is what a manifest itself or one of its parts lists.
type part struct {
	file  string
	items []listed
}

// readManifest reads a manifest and its parts. It checks everything that the other steps rely on.
// The manifest must have the digest, unless that is empty.
func readManifest(p *pool, file, digest string) (listing, error) {
	data, err := readFile(file)
	if err == nil {
		err = checkDigest(data, digest)
	}
	if err != nil {
		return nil, &problem{"read manifest", file, err}
	}
	items, names, err := parseManifest(data)
	if err != nil {
		return nil, &problem{"read manifest", file, err}
	}
	parts, errs := make([]part, len(names)), make([]error, len(names))
	var group sync.WaitGroup
	for i, name := range names {
		parts[i].file = filepath.Join(filepath.Dir(file), "parts", name+".json")
		p.do(&group, func() { parts[i].items, errs[i] = readPart(parts[i].file, name) })
	}
	group.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, &problem{"read manifest", parts[i].file, err}
		}
	}
	return union(append([]part{{file, items}}, parts...))
}

// readFile reads a regular file. Anything else could block the program or never end.
func readFile(name string) ([]byte, error) {
	opened, err := os.OpenFile(name, readOnly, 0)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	f := file(opened.Fd())
	st, err := f.stat()
	switch {
	case err != nil:
		return nil, err
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return nil, errors.New("not a regular file")
	case st.Size > maxManifest:
		return nil, errors.New("the file is too large")
	}
	data := make([]byte, st.Size)
	return data, f.readAt(data, 0)
}

func checkDigest(data []byte, want string) error {
	if want == "" {
		return nil
	}
	name, found := strings.CutPrefix(want, digestPrefix)
	if !found || !isSHA256(name) {
		return errors.New(digestVariable + " is " + strconv.Quote(want) + ": expected " + digestPrefix + " and 64 lower-case hex digits")
	}
	if have := hexSHA256(data); have != name {
		return errors.New("the digest is " + digestPrefix + have + ", but " + digestVariable + " is " + want)
	}
	return nil
}

func parseManifest(data []byte) (items []listed, parts []string, err error) {
	// Another version can have other columns.
	var version int64
	err = readObject(data, func(r *reader, key string) (err error) {
		if key != "version" {
			return r.skip()
		}
		version, err = r.integer()
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if version < oldestVersion || version > newestVersion {
		return nil, nil, errors.New("unsupported version " + strconv.FormatInt(version, 10) + ": this extractor reads versions 2 and 3")
	}
	var c columns
	err = readObject(data, func(r *reader, key string) (err error) {
		if key != "parts" {
			return c.read(r, key)
		}
		parts, err = r.strings()
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, name := range parts {
		if !isSHA256(name) { // the name becomes part of a path
			return nil, nil, errors.New("invalid part name " + strconv.Quote(name) + ": expected a SHA-256")
		}
	}
	items, err = c.items()
	return items, parts, err
}

func readPart(file, name string) ([]listed, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if hexSHA256(data) != name {
		return nil, errors.New("the content does not match the SHA-256 in the file name")
	}
	var c columns
	if err := readObject(data, c.read); err != nil {
		return nil, err
	}
	return c.items()
}

// union merges all parts. The directory of a path can be in another part.
func union(parts []part) (listing, error) {
	l := listing{".": {}}
	for _, part := range parts {
		for _, it := range part.items {
			if it.item.kind == fs.ModeDir {
				l[it.path] = map[string]item{}
			}
		}
	}
	for _, part := range parts {
		for _, it := range part.items {
			if err := l.add(it.path, it.item); err != nil {
				return nil, &problem{"read manifest", part.file, err}
			}
		}
	}
	return l, nil
}

// add adds a path. It rejects a path whose directory is not listed: the walk would never reach it.
func (l listing) add(name string, it item) error {
	dir, base := ".", name
	if slash := strings.LastIndexByte(name, '/'); slash >= 0 {
		dir, base = name[:slash], name[slash+1:]
	}
	items, found := l[dir]
	if !found {
		return errors.New(strconv.Quote(name) + " is listed but its directory is not")
	}
	before := len(items)
	if items[base] = it; len(items) == before {
		return errors.New(strconv.Quote(name) + " is listed twice")
	}
	return nil
}

func isSHA256(text string) bool {
	return len(text) == 2*sha256.Size && strings.Trim(text, "0123456789abcdef") == ""
}

func hexSHA256(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
