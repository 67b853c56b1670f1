package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const manifestVersion = 2

// An item is one path of the manifest.
type item struct {
	kind       fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
	sha256     string      // of a file, in lower-case hex
	executable bool        // of a file
	to         string      // of a link
}

// A listing is a manifest as a tree: it maps the path of a directory to the directory's items by
// name. The path of the top is ".".
type listing map[string]map[string]item

// columns are the paths in a manifest or in one of its parts.
type columns struct {
	file       string // the path of the manifest or part
	Files      map[string]string
	Executable []string
	Links      map[string]string
}

// readManifest reads a manifest and its parts. It checks everything that verify relies on.
func readManifest(file string) (listing, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, &problem{"read manifest", file, err}
	}
	top, parts, err := parseManifest(data)
	if err != nil {
		return nil, &problem{"read manifest", file, err}
	}
	top.file = file
	all := []columns{top}
	for _, name := range parts {
		file := filepath.Join(filepath.Dir(file), "parts", name+".json")
		part, err := readPart(file, name)
		if err != nil {
			return nil, &problem{"read manifest", file, err}
		}
		all = append(all, part)
	}
	return union(all)
}

func parseManifest(data []byte) (top columns, parts []string, err error) {
	var version struct {
		Version int
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return top, nil, err
	}
	if version.Version != manifestVersion {
		return top, nil, fmt.Errorf("unsupported version %d: this extractor reads version %d", version.Version, manifestVersion)
	}
	var root struct {
		columns
		Parts []string
	}
	if err := json.Unmarshal(data, &root); err != nil {
		return top, nil, err
	}
	for _, name := range root.Parts {
		if !isSHA256(name) { // the name becomes part of a path
			return top, nil, fmt.Errorf("invalid part name %q: expected a SHA-256", name)
		}
	}
	return root.columns, root.Parts, nil
}

func readPart(file, name string) (part columns, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return part, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != name {
		return part, errors.New("the content does not match the SHA-256 in the file name")
	}
	part.file = file
	return part, json.Unmarshal(data, &part)
}

// union merges the columns of all parts. The directory of a path can be in another part.
func union(all []columns) (listing, error) {
	l := listing{".": {}}
	for _, c := range all {
		for name, sum := range c.Files {
			if sum == "" {
				l[name] = map[string]item{}
			}
		}
	}
	for _, c := range all {
		for name, sum := range c.Files {
			it := item{sha256: sum}
			if sum == "" {
				it.kind = fs.ModeDir
			}
			if err := l.add(name, it); err != nil {
				return nil, &problem{"read manifest", c.file, err}
			}
		}
		for name, to := range c.Links {
			if err := l.add(name, item{kind: fs.ModeSymlink, to: to}); err != nil {
				return nil, &problem{"read manifest", c.file, err}
			}
		}
	}
	for _, c := range all {
		for _, name := range c.Executable {
			dir, base := path.Dir(name), path.Base(name)
			it, found := l[dir][base]
			if !found || it.kind != 0 {
				return nil, &problem{"read manifest", c.file, fmt.Errorf("%q is executable but not a file", name)}
			}
			it.executable = true
			l[dir][base] = it
		}
	}
	return l, nil
}

// add adds a path. It rejects a path whose directory is not listed: verify would never reach it.
func (l listing) add(name string, it item) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%q is not a clean relative path", name)
	}
	if it.kind == 0 && !isSHA256(it.sha256) {
		return fmt.Errorf("%q has an invalid SHA-256: %q", name, it.sha256)
	}
	dir, base := path.Dir(name), path.Base(name)
	if l[dir] == nil {
		return fmt.Errorf("%q is listed but its directory is not", name)
	}
	if _, twice := l[dir][base]; twice {
		return fmt.Errorf("%q is listed twice", name)
	}
	l[dir][base] = it
	return nil
}

func isSHA256(text string) bool {
	return len(text) == 2*sha256.Size && strings.Trim(text, "0123456789abcdef") == ""
}
