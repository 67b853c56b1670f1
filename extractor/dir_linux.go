package main

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"iter"
	"syscall"
)

// kinds maps the d_type of getdents64. Some file systems report none.
var kinds = map[byte]fs.FileMode{syscall.DT_DIR: fs.ModeDir, syscall.DT_LNK: fs.ModeSymlink, syscall.DT_REG: 0}

// list yields the entries of a directory, a few at a time, so that memory stays bounded.
// It works once: it leaves the descriptor at the end of the directory.
func (d dir) list() iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		buf := make([]byte, 8<<10)
		for {
			n, err := retry(func() (int, error) { return syscall.ReadDirent(d.fd, buf) })
			if err != nil {
				yield(entry{}, err)
				return
			}
			if n == 0 {
				return
			}
			// struct linux_dirent64: inode 8, offset 8, length 2, type 1, name and NUL.
			for rest := buf[:n]; len(rest) > 0; rest = rest[binary.NativeEndian.Uint16(rest[16:]):] {
				name, _, _ := bytes.Cut(rest[19:], []byte{0})
				e := entry{name: string(name)}
				if e.name == "." || e.name == ".." {
					continue
				}
				var known bool
				if e.kind, known = kinds[rest[18]]; !known {
					info, err := d.Lstat(e.name)
					if err != nil {
						yield(entry{}, err)
						return
					}
					e.kind = info.Mode().Type()
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// openFile opens an entry of the directory. It does not follow a link.
func (d dir) openFile(name string, flags int, mode uint32) (file, error) {
	const always = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	fd, err := retry(func() (int, error) { return syscall.Openat(d.fd, name, flags|always, mode) })
	return file(fd), err
}

// rename replaces anything but a directory. os.Root would make a second call for each file.
func (d dir) rename(from, to string) error {
	_, err := retry(func() (int, error) { return 0, syscall.Renameat(d.fd, from, d.fd, to) })
	if err == syscall.EISDIR {
		return syscall.EEXIST
	}
	return err
}
