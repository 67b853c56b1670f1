package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// trees are the source and the target of a copy, or a directory that both have.
type trees struct {
	source, target dir
	empty          bool // the target's directory is new
}

// openTrees opens both trees. It creates the target if it is missing. Both paths are absolute.
func openTrees(source, target string, mirror bool) (trees, error) {
	src, err := openDir(source)
	if errors.Is(err, fs.ErrNotExist) {
		return trees{}, errors.New("this image contains no sources: " + source + " does not exist")
	}
	if err != nil {
		return trees{}, &problem{"open", source, err}
	}
	if err := checkOverlap(source, target, mirror); err != nil {
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
	return trees{source: src, target: dst}, nil
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
	return trees{source: src, target: dst}, nil
}

// checkOverlap rejects a target whose content would overwrite or remove the sources.
func checkOverlap(source, target string, mirror bool) error {
	existing := target
	for {
		_, err := os.Stat(existing)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return &problem{"open", target, err}
		}
		existing = filepath.Dir(existing)
	}
	inside, err := within(existing, source)
	if err != nil {
		return &problem{"open", target, err}
	}
	if inside {
		return errors.New("refusing to write into the sources of the image: " + strconv.Quote(target))
	}
	if !mirror || existing != target {
		return nil
	}
	around, err := within(source, target)
	if err != nil {
		return &problem{"open", target, err}
	}
	if around {
		return errors.New("refusing --mirror: it would remove the sources of the image, which are in " + strconv.Quote(target))
	}
	return nil
}

// within reports whether path is dir or inside it, also through links and mounts.
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
		// filepath.Dir does not resolve links. The kernel does.
		path += "/.."
		child := here
		if here, err = os.Stat(path); err == nil && os.SameFile(here, child) {
			return false, nil
		}
	}
	return false, err
}
