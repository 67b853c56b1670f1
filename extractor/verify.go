package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// verify compares both trees with the manifest and reports every difference. It compares the
// names and types in the source, and everything in the target. After a mirror, what a mirror
// removes is a difference, too.
func verify(p *pool, t trees, want listing, mirrored bool) {
	all := func(_ dir, e entry) ([]string, error) { return []string{e.name}, nil }
	var inTarget extras
	if mirrored {
		inTarget = stale
	}
	compare(p, t.source, want, all, func(dir, string, fs.FileInfo, item) error { return nil })
	compare(p, t.target, want, inTarget, func(in dir, name string, have fs.FileInfo, want item) error {
		if want.kind == fs.ModeSymlink {
			return checkLink(in, name, want)
		}
		return checkFile(p, in, name, have, want)
	})
}

type check func(in dir, name string, have fs.FileInfo, want item) error

// extras returns which paths are differences, of an entry that the manifest lacks.
type extras func(in dir, e entry) ([]string, error)

// compare walks down the manifest, and opens nothing else, unless extra does. Without extra, it accepts
// what the manifest lacks.
func compare(p *pool, tree dir, want listing, extra extras, content check) {
	walk(p, tree, p.report, func(here dir, path string) (below []string) {
		var files sync.WaitGroup
		defer files.Wait()

		for name, item := range want[path] {
			if p.stopped() {
				return nil
			}
			have, err := here.Lstat(name)
			switch {
			case err != nil:
				p.report(failed("verify", here, name, err))
			case have.Mode().Type() != item.kind:
				err := fmt.Errorf("%s, not %s", kindName(have.Mode()), kindName(item.kind))
				p.report(failed("verify", here, name, err))
			case item.kind == fs.ModeDir:
				below = append(below, name)
			default:
				p.do(&files, func() {
					if err := content(here, name, have, item); err != nil {
						p.report(failed("verify", here, name, err))
					}
				})
			}
		}
		if extra == nil {
			return below
		}
		for entry, err := range here.list() {
			if err != nil {
				p.report(failed("list", here, ".", err))
				return nil
			}
			if _, listed := want[path][entry.name]; listed {
				continue
			}
			paths, err := extra(here, entry)
			if err != nil {
				p.report(err)
			}
			for _, path := range paths {
				p.report(failed("verify", here, path, errors.New("not in the manifest")))
			}
		}
		return below
	})
}

func checkFile(p *pool, in dir, name string, have fs.FileInfo, want item) error {
	f, err := in.OpenFile(name, readOnly, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := p.buffer()
	defer p.release(buf)
	hash := sha256.New()
	// The struct hides WriteTo, which would not use the buffer.
	if _, err := io.CopyBuffer(hash, struct{ io.Reader }{f}, buf[:]); err != nil {
		return err
	}
	switch {
	case hex.EncodeToString(hash.Sum(nil)) != want.sha256:
		return errors.New("its content is not what the manifest says")
	case executable(uint32(have.Mode())) && !want.executable:
		return errors.New("executable, and should not be")
	case !executable(uint32(have.Mode())) && want.executable:
		return errors.New("not executable, and should be")
	}
	return nil
}

func checkLink(in dir, name string, want item) error {
	to, err := in.Readlink(name)
	if err != nil {
		return err
	}
	if to != want.to {
		return fmt.Errorf("a link to %q, not to %q", to, want.to)
	}
	return nil
}

func kindName(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a link"
	case 0:
		return "a file"
	default:
		return "something special"
	}
}
