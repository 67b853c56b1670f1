package main

import (
	"io/fs"
	"path"
	"sync/atomic"
)

// gitName is the name of a git repository's data, whether a directory, a file or a link.
// What was never pushed exists only there.
const gitName = ".git"

// mirror removes from the target what the source lacks, and returns how many entries it
// removed. A directory counts as one. Every .git that the source lacks stays, at any depth,
// with the directories that lead to it.
func mirror(p *pool, t trees) int64 {
	var removed atomic.Int64
	walk(p, t, p.fail, func(here trees, _ string) (below []string) {
		inImage := map[string]bool{}
		for entry, err := range here.source.list() {
			if err != nil {
				p.fail(failed("list", here.source, ".", err))
				return nil
			}
			inImage[entry.name] = true
			if entry.kind == fs.ModeDir {
				below = append(below, entry.name)
			}
		}

		// The listing ends before the first removal, which could make it miss names.
		var extra []entry
		for entry, err := range here.target.list() {
			if err != nil {
				p.fail(failed("list", here.target, ".", err))
				return nil
			}
			if !inImage[entry.name] {
				extra = append(extra, entry)
			}
		}
		for _, entry := range extra {
			if p.stopped() {
				return nil
			}
			paths, err := stale(here.target, entry)
			if err != nil {
				p.fail(err)
				return nil
			}
			for _, path := range paths {
				if err := here.target.RemoveAll(path); err != nil {
					p.fail(failed("remove", here.target, path, err))
					return nil
				}
			}
			if len(paths) > 0 {
				removed.Add(1)
			}
		}
		return below
	})
	return removed.Load()
}

// stale returns the paths that --mirror removes of an entry that the image lacks: none of
// a .git, only what lies beside it of a directory that leads to a .git, otherwise the entry.
func stale(d dir, e entry) ([]string, error) {
	switch {
	case e.name == gitName:
		return nil, nil
	case e.kind != fs.ModeDir:
		return []string{e.name}, nil
	}
	paths, _, err := staleBelow(d, e.name)
	return paths, err
}

// staleBelow is stale for a directory of any name. It also reports whether a .git lies below.
func staleBelow(d dir, name string) (paths []string, git bool, err error) {
	entries, err := listAll(d, name)
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		below := path.Join(name, e.name)
		switch {
		case e.name == gitName:
			git = true
		case e.kind == fs.ModeDir:
			more, found, err := staleBelow(d, below)
			if err != nil {
				return nil, false, err
			}
			git = git || found
			paths = append(paths, more...)
		default:
			paths = append(paths, below)
		}
	}
	if !git {
		paths = []string{name}
	}
	return paths, git, nil
}

// listAll returns the entries of a subdirectory. It keeps nothing open: a tree can be deep.
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
