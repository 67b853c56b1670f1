package main

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

// columns are the paths in a manifest or in one of its parts, as they are stored.
type columns struct {
	files      []pair // each path with its SHA-256, or with "" for a directory
	sizes      []int64
	executable map[string]bool
	links      []pair // each path with its target
}

type pair struct{ path, value string }

// read reads the value of a key. It skips what is not a column.
func (c *columns) read(r *reader, key string) (err error) {
	switch key {
	case "files":
		c.files, err = r.pairs()
	case "links":
		c.links, err = r.pairs()
	case "executable":
		c.executable = map[string]bool{}
		err = r.array(func() error {
			name, err := r.string()
			c.executable[name] = true
			return err
		})
	case "sizes":
		err = r.array(func() error {
			size, err := r.integer()
			c.sizes = append(c.sizes, size)
			return err
		})
	default:
		err = r.skip()
	}
	return err
}

func (r *reader) pairs() (all []pair, err error) {
	err = r.object(func(key string) error {
		value, err := r.string()
		all = append(all, pair{key, value})
		return err
	})
	return all, err
}

// items joins the columns. The sizes are in the order of the files.
func (c *columns) items() ([]listed, error) {
	items := make([]listed, 0, len(c.files)+len(c.links))
	sizes, executable := c.sizes, 0
	for _, f := range c.files {
		if err := checkPath(f.path); err != nil {
			return nil, err
		}
		it := item{kind: fs.ModeDir}
		if f.value != "" {
			if !isSHA256(f.value) {
				return nil, errors.New(strconv.Quote(f.path) + " has an invalid SHA-256: " + strconv.Quote(f.value))
			}
			if len(sizes) == 0 {
				return nil, errors.New(strconv.Quote(f.path) + " has no size")
			}
			it = item{sha256: f.value, size: sizes[0], executable: c.executable[f.path]}
			sizes = sizes[1:]
			if it.executable {
				executable++
			}
		}
		items = append(items, listed{f.path, it})
	}
	if len(sizes) > 0 {
		return nil, errors.New("it has more sizes than files")
	}
	if executable < len(c.executable) {
		return nil, errors.New("it lists an executable that is not a file")
	}
	for _, link := range c.links {
		if err := checkPath(link.path); err != nil {
			return nil, err
		}
		items = append(items, listed{link.path, item{kind: fs.ModeSymlink, to: link.value}})
	}
	return items, nil
}

func checkPath(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.IndexByte(name, 0) >= 0 {
		return errors.New(strconv.Quote(name) + " is not a clean relative path")
	}
	return nil
}
