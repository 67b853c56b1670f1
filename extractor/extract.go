package main

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// extract copies the source tree over the target tree. It returns how many files and links
// it wrote, and how many were right before.
func extract(p *pool, t trees) (written, unchanged int64) {
	var changes, total atomic.Int64
	walk(p, t, p.fail, func(here trees, _ string) (subdirs []string) {
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
				// The walk opens the directory as soon as the visit returns.
				if err := makeDir(here.target, name); err != nil {
					p.fail(failed("mkdir", here.target, name, err))
					return nil
				}
				subdirs = append(subdirs, name)
			case fs.ModeSymlink:
				put(name, placeLink)
			case 0:
				put(name, placeFile)
			default:
				p.fail(failed("copy", here.source, name, errors.New("unsupported file type: expected a file, a directory or a link")))
			}
		}
		return subdirs
	})
	return changes.Load(), total.Load() - changes.Load()
}

// makeDir puts a directory in place of anything else, a link included. It keeps a directory.
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

// openUp lets the owner use a directory. It changes no directory of another user, and none for
// root, who needs no permission.
func openUp(parent dir, name string, dir fs.FileInfo) error {
	stat := dir.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	if uid == 0 || int(stat.Uid) != uid || dir.Mode()&0o700 == 0o700 {
		return nil
	}
	return parent.Chmod(name, dir.Mode()|0o700)
}
