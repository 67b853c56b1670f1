package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// trees are the two ends of a copy. An os.Root lets nothing reach outside of them.
type trees struct {
	source, target *os.Root
}

// openTrees makes the target if need be. Both paths are absolute.
func openTrees(source, target string, mirror bool) (trees, error) {
	src, err := os.OpenRoot(source)
	if errors.Is(err, fs.ErrNotExist) {
		return trees{}, fmt.Errorf("this image holds no sources: %s is missing", source)
	}
	if err != nil {
		return trees{}, &problem{"open", source, err}
	}
	if err := checkApart(source, target, mirror); err != nil {
		src.Close()
		return trees{}, err
	}
	err = os.MkdirAll(target, 0o755)
	if err != nil {
		src.Close()
		return trees{}, &problem{"mkdir", target, err}
	}
	dst, err := os.OpenRoot(target)
	if err != nil {
		src.Close()
		return trees{}, &problem{"open", target, err}
	}
	return trees{src, dst}, nil
}

func (t trees) close() {
	t.source.Close()
	t.target.Close()
}

// open opens the same directory in both trees.
func (t trees) open(dir string) (trees, error) {
	src, err := t.source.OpenRoot(dir)
	if err != nil {
		return trees{}, failed("open", t.source, dir, err)
	}
	dst, err := t.target.OpenRoot(dir)
	if err != nil {
		src.Close()
		return trees{}, failed("open", t.target, dir, err)
	}
	return trees{src, dst}, nil
}

// checkApart refuses a target that would destroy the sources.
func checkApart(source, target string, mirror bool) error {
	existing := target
	for {
		_, err := os.Stat(existing)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return &problem{"use", target, err}
		}
		existing = filepath.Dir(existing)
	}
	inside, err := within(existing, source)
	if err != nil {
		return &problem{"use", target, err}
	}
	if inside {
		return fmt.Errorf("refusing to extract into the sources themselves: %q", target)
	}
	if !mirror || existing != target {
		return nil
	}
	around, err := within(source, target)
	if err != nil {
		return &problem{"use", target, err}
	}
	if around {
		return fmt.Errorf("refusing --mirror: %q contains the sources and would lose them", target)
	}
	return nil
}

// within reports whether path is dir or lies below it, by whatever links or mounts it was named.
func within(path, dir string) (bool, error) {
	top, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	here, err := os.Stat(path)
	for err == nil {
		if os.SameFile(here, top) {
			return true, nil
		}
		// Not filepath.Dir: only the kernel knows where a link's ".." leads.
		path += "/.."
		below := here
		if here, err = os.Stat(path); err == nil && os.SameFile(here, below) {
			return false, nil
		}
	}
	return false, err
}

// list yields the entries of a directory, a few at a time however many there are.
func list(dir *os.Root) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		f, err := dir.Open(".")
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		for {
			entries, err := f.ReadDir(256)
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}
