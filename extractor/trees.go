package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// trees are the two ends of a copy. An os.Root lets nothing reach outside of them.
type trees struct {
	source, target dir
}

// openTrees makes the target if need be. Both paths are absolute.
func openTrees(source, target string, mirror bool) (trees, error) {
	src, err := openDir(source)
	if errors.Is(err, fs.ErrNotExist) {
		return trees{}, fmt.Errorf("this image holds no sources: %s is missing", source)
	}
	if err != nil {
		return trees{}, &problem{"open", source, err}
	}
	if err := checkApart(source, target, mirror); err != nil {
		src.close()
		return trees{}, err
	}
	err = os.MkdirAll(target, 0o755)
	if err != nil {
		src.close()
		return trees{}, &problem{"mkdir", target, err}
	}
	dst, err := openDir(target)
	if err != nil {
		src.close()
		return trees{}, &problem{"open", target, err}
	}
	return trees{src, dst}, nil
}

func (t trees) close() {
	t.source.close()
	t.target.close()
}

// open opens the same directory in both trees.
func (t trees) open(path string) (trees, error) {
	src, err := t.source.open(path)
	if err != nil {
		return trees{}, err
	}
	dst, err := t.target.open(path)
	if err != nil {
		src.close()
		return trees{}, err
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
