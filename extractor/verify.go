package main

import (
	"io/fs"
	"os"
	"sync"
)

// verify reads the target back and reports every difference from the manifest. After a mirror, the
// extra paths that it removes are differences, too.
func verify(p *pool, target dir, want listing, mirrored bool) {
	walk(p, target, p.report, func(here dir, path string) (subdirs []string) {
		var files sync.WaitGroup
		defer files.Wait()
		for name, item := range want[path] {
			if p.stopped() {
				return nil
			}
			have, err := here.Lstat(name)
			if err == nil {
				err = checkKind(have.Mode().Type(), item)
			}
			switch {
			case err != nil:
				p.report(failed("verify", here, name, err))
			case item.kind == fs.ModeDir:
				subdirs = append(subdirs, name)
			default:
				p.do(&files, func() {
					if err := check(p, here, name, item); err != nil {
						p.report(failed("verify", here, name, err))
					}
				})
			}
		}
		if mirrored {
			reportExtra(p, here, want[path])
		}
		return subdirs
	})
}

func check(p *pool, in dir, name string, want item) error {
	if want.kind == fs.ModeSymlink {
		return checkLink(in, name, want)
	}
	f, err := in.openFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.close()
	have, err := f.stat()
	if err != nil {
		return err
	}
	if err := p.checkContent(f, have, want); err != nil {
		return err
	}
	return checkMode(uint32(have.Mode), want)
}

// reportExtra reports what a mirror would remove from a directory.
func reportExtra(p *pool, here dir, want map[string]item) {
	for entry, err := range here.list() {
		if err != nil {
			p.report(failed("list", here, ".", err))
			return
		}
		if _, listed := want[entry.name]; listed {
			continue
		}
		paths, err := stale(here, entry)
		if err != nil {
			p.report(err)
		}
		for _, path := range paths {
			p.report(failed("verify", here, path, errUnlisted))
		}
	}
}
