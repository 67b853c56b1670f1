//go:build !linux

package main

import (
	"io"
	"io/fs"
	"iter"
	"os"
	"syscall"
)

// list yields the entries of a directory, a few at a time, so that memory stays bounded.
// It works once: it leaves the descriptor at the end of the directory.
func (d dir) list() iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for {
			entries, err := d.self.ReadDir(256)
			for _, e := range entries {
				if !yield(entry{e.Name(), e.Type()}, nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(entry{}, err)
				return
			}
		}
	}
}

// openFile opens an entry of the directory. It does not follow a link.
func (d dir) openFile(name string, flags int, mode uint32) (file, error) {
	opened, err := d.OpenFile(name, flags|syscall.O_NONBLOCK, fs.FileMode(mode))
	if err != nil {
		return -1, err
	}
	defer opened.Close()
	// An os.Root follows a link that stays inside.
	found, err := opened.Stat()
	if err != nil {
		return -1, err
	}
	if named, err := d.Lstat(name); err != nil || !os.SameFile(found, named) {
		return -1, syscall.ELOOP
	}
	fd, err := retry(func() (int, error) { return syscall.Dup(int(opened.Fd())) })
	return file(fd), err
}

// rename replaces anything but a directory.
func (d dir) rename(from, to string) error { return d.Rename(from, to) }
