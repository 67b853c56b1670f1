package main

import (
	"io/fs"
	"path"
	"sync/atomic"
)

// gitName is the name of a git repository's data, whether a directory, a file or a link.
// What was never pushed exists only there.
const gitName = ".git"

// mirror removes from the target what the manifest lacks, and returns how many entries it
// removed. A directory counts as one. Every .git that the manifest lacks stays, at any depth,
// with the directories that lead to it.
func mirror(p *pool, target dir, want listing) int64 {
	var removed atomic.Int64
	walk(p, target, p.fail, func(here dir, path string) (subdirs []string) {
		for name, item := range want[path] {
			if item.kind == fs.ModeDir {
				subdirs = append(subdirs, name)
			}
		}

		// The listing ends before the first removal, which could make it miss names.
		var extra []entry
		for entry, err := range here.list() {
			if err != nil {
				p.fail(failed("list", here, ".", err))
				return nil
			}
			if _, listed := want[path][entry.name]; !listed {
				extra = append(extra, entry)
			}
		}
		for _, entry := range extra {
			if p.stopped() {
				return nil
			}
			paths, err := stale(here, entry)
			if err != nil {
				p.fail(err)
				return nil
			}
			for _, path := range paths {
				if err := here.RemoveAll(path); err != nil {
					p.fail(failed("remove", here, path, err))
					return nil
				}
			}
			if len(paths) > 0 {
				removed.Add(1)
			}
		}
		return subdirs
	})
	return removed.Load()
}

// stale returns the paths that --mirror removes for an entry that the image lacks:
//   - for a .git: none
//   - for a directory that contains a .git at any depth: the paths that lead to no .git
//   - for anything else: the entry
func stale(d dir, e entry) ([]string, error) {
	switch {
	case e.name == gitName:
		return nil, nil
	case e.kind != fs.ModeDir:
		return []string{e.name}, nil
	}
	paths, _, err := staleInside(d, e.name)
	return paths, err
}

// staleInside is stale for a directory, even one named .git. It also reports whether the
// directory contains a .git at any depth.
func staleInside(d dir, name string) (paths []string, git bool, err error) {
	entries, err := listAll(d, name)
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		inside := path.Join(name, e.name)
		switch {
		case e.name == gitName:
			git = true
		case e.kind == fs.ModeDir:
			more, found, err := staleInside(d, inside)
			if err != nil {
				return nil, false, err
			}
			git = git || found
			paths = append(paths, more...)
		default:
			paths = append(paths, inside)
		}
	}
	if !git {
		paths = []string{name}
	}
	return paths, git, nil
}

// listAll returns the entries of a subdirectory. It keeps no descriptor open, so that a deep
// tree needs no more of them.
func listAll(d dir, name string) (entries []entry, err error) {
	subdir, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer subdir.close()
	for entry, err := range subdir.list() {
		if err != nil {
			return nil, failed("list", d, name, err)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}
