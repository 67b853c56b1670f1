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

// verify compares both trees with the manifest and reports every difference: in the source
// the names and types, in the target also the contents, modes and link targets. Extra paths are
// differences in the source. After a mirror, the extra paths that it removes are differences in
// the target, too.
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

// extras returns the paths that are differences for an entry that the manifest lacks.
type extras func(in dir, e entry) ([]string, error)

// compare walks through the directories of the manifest. If extra is nil, it ignores entries
// that the manifest lacks.
func compare(p *pool, tree dir, want listing, extra extras, content check) {
	walk(p, tree, p.report, func(here dir, path string) (subdirs []string) {
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
				err := fmt.Errorf("expected %s, found %s", kindName(item.kind), kindName(have.Mode()))
				p.report(failed("verify", here, name, err))
			case item.kind == fs.ModeDir:
				subdirs = append(subdirs, name)
			default:
				p.do(&files, func() {
					if err := content(here, name, have, item); err != nil {
						p.report(failed("verify", here, name, err))
					}
				})
			}
		}
		if extra == nil {
			return subdirs
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
		return subdirs
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
	// The struct hides WriteTo, which ignores the buffer.
	if _, err := io.CopyBuffer(hash, struct{ io.Reader }{f}, buf[:]); err != nil {
		return err
	}
	switch {
	case hex.EncodeToString(hash.Sum(nil)) != want.sha256:
		return errors.New("the content differs from the manifest")
	case executable(uint32(have.Mode())) && !want.executable:
		return errors.New("the mode differs from the manifest: the file is executable")
	case !executable(uint32(have.Mode())) && want.executable:
		return errors.New("the mode differs from the manifest: the file is not executable")
	}
	return nil
}

func checkLink(in dir, name string, want item) error {
	to, err := in.Readlink(name)
	if err != nil {
		return err
	}
	if to != want.to {
		return fmt.Errorf("expected a link to %q, found a link to %q", want.to, to)
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
		return "a special file"
	}
}
