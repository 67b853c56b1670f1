package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"iter"
	"os"
	"syscall"
)

// Every open is non-blocking: a named pipe that turns up cannot hang us,
// and package os saves the calls that set the flag.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

// A dir is an open directory. The os.Root lets nothing reach outside; the descriptor is for
// what is done with each file, where an os.Root takes twice the time. What is opened by that
// is an entry of this very directory, and never a link.
type dir struct {
	*os.Root
	self *os.File
	fd   int
}

func openDir(path string) (dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return dir{}, err
	}
	return withDescriptor(root)
}

func withDescriptor(root *os.Root) (dir, error) {
	self, err := root.OpenFile(".", readOnly, 0)
	if err != nil {
		root.Close()
		return dir{}, err
	}
	return dir{root, self, int(self.Fd())}, nil
}

// open opens a directory below this one, or this one again.
func (d dir) open(path string) (dir, error) {
	root, err := d.OpenRoot(path)
	if err != nil {
		return dir{}, failed("open", d, path, err)
	}
	below, err := withDescriptor(root)
	if err != nil {
		return dir{}, failed("open", d, path, err)
	}
	return below, nil
}

func (d dir) close() {
	d.self.Close()
	d.Root.Close()
}

// An entry is a name in a directory and what is there.
type entry struct {
	name string
	kind fs.FileMode
}

// kinds are the d_type of getdents64; a filesystem may also not tell.
var kinds = map[byte]fs.FileMode{syscall.DT_DIR: fs.ModeDir, syscall.DT_LNK: fs.ModeSymlink, syscall.DT_REG: 0}

// list yields the entries of a directory, a few at a time however many there are. It works once:
// the descriptor is at the end then.
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

// A file is the descriptor of an open one: an os.File would ask the poller about each, in vain.
type file int

func (d dir) openFile(name string, flags int, mode uint32) (file, error) {
	const always = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	fd, err := retry(func() (int, error) { return syscall.Openat(d.fd, name, flags|always, mode) })
	return file(fd), err
}

func (f file) stat() (st syscall.Stat_t, err error) {
	_, err = retry(func() (int, error) { return 0, syscall.Fstat(int(f), &st) })
	return st, err
}

// readAt fills the buffer.
func (f file) readAt(buf []byte, at int64) error {
	for len(buf) > 0 {
		n, err := retry(func() (int, error) { return syscall.Pread(int(f), buf, at) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		buf, at = buf[n:], at+int64(n)
	}
	return nil
}

func (f file) write(buf []byte) error {
	for len(buf) > 0 {
		n, err := retry(func() (int, error) { return syscall.Write(int(f), buf) })
		if err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

func (f file) close() error { return syscall.Close(int(f)) }

// retry goes on where a signal has interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != syscall.EINTR {
			return n, err
		}
	}
}
