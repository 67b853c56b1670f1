package main

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
)

// extract copies the source tree over the target tree, as the manifest lists it. It returns how
// many files and links it wrote, and how many were right before. It reports each difference of the
// source from the manifest, does not copy it, and goes on.
func extract(p *pool, t trees, want listing) (written, unchanged int64) {
	var changes, total atomic.Int64
	var made sync.Map // the paths of the directories that this run created
	walk(p, t, p.fail, func(here trees, whole string) (subdirs []string) {
		_, here.empty = made.LoadAndDelete(whole)
		var files sync.WaitGroup
		defer files.Wait()
		put := func(name string, want item, place func(*pool, trees, string, item) (bool, error)) {
			p.do(&files, func() {
				changed, err := place(p, here, name, want)
				if isDifference(err) {
					p.report(err)
				} else if err != nil {
					p.fail(err)
				}
				if changed {
					changes.Add(1)
				}
				total.Add(1)
			})
		}

		missing := maps.Clone(want[whole])
		for entry, err := range here.source.list() {
			if p.stopped() {
				return nil
			}
			if err != nil {
				p.fail(failed("list", here.source, ".", err))
				return nil
			}
			name := entry.name
			item, listed := missing[name]
			delete(missing, name)
			if err := checkEntry(entry.kind, item, listed); err != nil {
				p.report(failed("copy", here.source, name, err))
				continue
			}
			switch item.kind {
			case fs.ModeDir:
				// The walk opens the directory as soon as the visit returns.
				isNew, err := makeDir(here.target, name)
				if err != nil {
					p.fail(failed("mkdir", here.target, name, err))
					return nil
				}
				if isNew {
					made.Store(path.Join(whole, name), nil)
				}
				subdirs = append(subdirs, name)
			case fs.ModeSymlink:
				put(name, item, placeLink)
			default:
				put(name, item, placeFile)
			}
		}
		for name := range missing {
			p.report(failed("copy", here.source, name, errMissing))
		}
		return subdirs
	})
	return changes.Load(), total.Load() - changes.Load()
}

func checkEntry(have fs.FileMode, want item, listed bool) error {
	switch {
	case have != 0 && have != fs.ModeDir && have != fs.ModeSymlink:
		return errors.New("unsupported file type: expected a file, a directory or a link")
	case !listed:
		return errUnlisted
	}
	return checkKind(have, want)
}

// makeDir puts a directory in place of anything else, a link included. It keeps a directory.
func makeDir(parent dir, name string) (isNew bool, err error) {
	old, err := parent.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case old.IsDir():
		return false, openUp(parent, name, old)
	default:
		if err := parent.Remove(name); err != nil {
			return false, err
		}
	}
	return true, parent.Mkdir(name, 0o755)
}

// openUp lets the owner use a directory. It changes no directory of another user, and none for
// root, who needs no permission.
func openUp(parent dir, name string, dir fs.FileInfo) error {
	stat := dir.Sys().(*syscall.Stat_t)
	if dir.Mode()&0o700 == 0o700 {
		return nil
	}
	if uid := os.Geteuid(); uid == 0 || int(stat.Uid) != uid {
		return nil
	}
	return parent.Chmod(name, dir.Mode()|0o700)
}
