package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
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

// readManifest reads a manifest and checks everything in it that verify relies on.
func readManifest(file string) (listing, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, &problem{"read manifest", file, err}
	}
	l, err := parseManifest(data)
	if err != nil {
		return nil, &problem{"read manifest", file, err}
	}
	return l, nil
}

func parseManifest(data []byte) (listing, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, err
	}
	if version.Version != manifestVersion {
		return nil, fmt.Errorf("it is version %d, this extractor knows version %d", version.Version, manifestVersion)
	}
	var m struct {
		Files      map[string]string `json:"files"`
		Executable []string          `json:"executable"`
		Links      map[string]string `json:"links"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}

	l := listing{".": {}}
	for name, sum := range m.Files {
		if sum == "" {
			l[name] = map[string]item{}
		}
	}
	for name, sum := range m.Files {
		it := item{sha256: sum}
		if sum == "" {
			it.kind = fs.ModeDir
		} else if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 || sum != strings.ToLower(sum) {
			return nil, fmt.Errorf("%q has a bad SHA-256: %q", name, sum)
		}
		if err := l.add(name, it); err != nil {
			return nil, err
		}
	}
	for name, to := range m.Links {
		if err := l.add(name, item{kind: fs.ModeSymlink, to: to}); err != nil {
			return nil, err
		}
	}
	for _, name := range m.Executable {
		dir, base := path.Dir(name), path.Base(name)
		it, found := l[dir][base]
		if !found || it.kind != 0 {
			return nil, fmt.Errorf("%q is executable and no file", name)
		}
		it.executable = true
		l[dir][base] = it
	}
	return l, nil
}

// add takes only a path whose parent is listed: verify walks down from the top
// and would miss any other.
func (l listing) add(name string, it item) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%q is no clean relative path", name)
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
