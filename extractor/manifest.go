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

// An item is what the manifest says of one path.
type item struct {
	kind       fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
	sha256     string      // of a file
	executable bool        // of a file
	to         string      // of a link
}

// A listing is a manifest as a tree: the items of each directory by name. The top is ".".
type listing map[string]map[string]item

// columns are what a manifest lists. The whole listing is the union of its own and its parts'.
type columns struct {
	file       string // it stands in this one
	Files      map[string]string
	Executable []string
	Links      map[string]string
}

// readManifest reads a manifest with its parts, and checks everything in it that verify relies on.
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
		return top, nil, fmt.Errorf("it is version %d, this extractor knows version %d", version.Version, manifestVersion)
	}
	var root struct {
		columns
		Parts []string
	}
	if err := json.Unmarshal(data, &root); err != nil {
		return top, nil, err
	}
	for _, name := range root.Parts {
		if !isSHA256(name) { // it becomes part of a path
			return top, nil, fmt.Errorf("%q is no part's SHA-256", name)
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
		return part, errors.New("its SHA-256 is not its name")
	}
	part.file = file
	return part, json.Unmarshal(data, &part)
}

// union needs all columns at once, as a path's directory may stand in another part.
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
				return nil, &problem{"read manifest", c.file, fmt.Errorf("%q is executable and no file", name)}
			}
			it.executable = true
			l[dir][base] = it
		}
	}
	return l, nil
}

// add takes only a path whose parent is listed: verify walks down from the top
// and would miss any other.
func (l listing) add(name string, it item) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%q is no clean relative path", name)
	}
	if it.kind == 0 && !isSHA256(it.sha256) {
		return fmt.Errorf("%q has a bad SHA-256: %q", name, it.sha256)
	}
	dir, base := path.Dir(name), path.Base(name)
	if l[dir] == nil {
		return fmt.Errorf("%q is listed and its directory is not", name)
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
