package main

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// extract copies the source tree over the target tree. It counts files and links.
func extract(p *pool, t trees) (written, unchanged int64) {
	var changes, total atomic.Int64
	walk(p, t, p.fail, func(here trees, _ string) (below []string) {
		var files sync.WaitGroup
		defer files.Wait()
		put := func(name string, place func(*pool, trees, string) (bool, error)) {
			p.do(&files, func() {
				changed, err := place(p, here, name)
				if err != nil {
					p.fail(err)
				}
				if changed {
					changes.Add(1)
				}
				total.Add(1)
			})
		}

		for entry, err := range here.source.list() {
			if p.stopped() {
				return nil
			}
			if err != nil {
				p.fail(failed("list", here.source, ".", err))
				return nil
			}
			switch name := entry.name; entry.kind {
			case fs.ModeDir:
				// Made here and now, as nothing below it can wait.
				if err := makeDir(here.target, name); err != nil {
					p.fail(failed("mkdir", here.target, name, err))
					return nil
				}
				below = append(below, name)
			case fs.ModeSymlink:
				put(name, placeLink)
			case 0:
				put(name, placeFile)
			default:
				p.fail(failed("copy", here.source, name, errors.New("neither a file, a directory nor a link")))
			}
		}
		return below
	})
	return changes.Load(), total.Load() - changes.Load()
}

// makeDir makes name a directory, without following a link of that name.
func makeDir(parent dir, name string) error {
	old, err := parent.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case old.IsDir():
		return openUp(parent, name, old)
	default:
		if err := parent.Remove(name); err != nil {
			return err
		}
	}
	return parent.Mkdir(name, 0o755)
}

// openUp makes a directory usable to its owner, and leaves a usable one alone.
func openUp(parent dir, name string, dir fs.FileInfo) error {
	stat := dir.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	if uid == 0 || int(stat.Uid) != uid || dir.Mode()&0o700 == 0o700 {
		return nil
	}
	return parent.Chmod(name, dir.Mode()|0o700)
}
