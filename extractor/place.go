package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Every open is non-blocking: a named pipe that turns up cannot hang us,
// and package os saves the calls that set the flag.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

// placeFile makes the target's file like the source's, and reports whether it had to change anything.
func placeFile(p *pool, dir trees, entry fs.DirEntry) (changed bool, err error) {
	name := entry.Name()
	want, err := entry.Info()
	if err != nil {
		return false, failed("read", dir.source, name, err)
	}
	in, err := dir.source.OpenFile(name, readOnly, 0)
	if err != nil {
		return false, failed("read", dir.source, name, err)
	}
	defer in.Close()
	mode := fs.FileMode(0o644)
	if executable(want) {
		mode = 0o755
	}

	old, err := dir.target.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, failed("stat", dir.target, name, err)
	}
	if err == nil && old.Mode().IsRegular() && old.Size() == want.Size() && sameContent(p, in, dir.target, name, want.Size()) {
		if executable(old) == executable(want) {
			return false, nil
		}
		// A hard link may share its mode with a file outside. Another user's file cannot be
		// changed. Both are replaced.
		if old.Sys().(*syscall.Stat_t).Nlink == 1 && dir.target.Chmod(name, mode) == nil {
			return true, nil
		}
	}
	err = replace(dir.target, name, func(temporary string) error {
		return writeFile(p, in, want.Size(), dir.target, temporary, mode)
	})
	if err != nil {
		return false, failed("write", dir.target, name, err)
	}
	return true, nil
}

// placeLink makes the target's symbolic link like the source's, wherever it points.
func placeLink(_ *pool, dir trees, entry fs.DirEntry) (changed bool, err error) {
	name := entry.Name()
	to, err := dir.source.Readlink(name)
	if err != nil {
		return false, failed("read", dir.source, name, err)
	}
	if old, err := dir.target.Readlink(name); err == nil && old == to {
		return false, nil
	}
	err = replace(dir.target, name, func(temporary string) error {
		return dir.target.Symlink(to, temporary)
	})
	if err != nil {
		return false, failed("write", dir.target, name, err)
	}
	return true, nil
}

// replace makes a thing under a temporary name and moves it over name, so that
// nobody sees half of it. The temporary name does not depend on name, which may be of any length.
func replace(dir *os.Root, name string, create func(temporary string) error) (err error) {
	temporary := ".kontext-" + rand.Text()
	defer func() {
		if err != nil {
			dir.Remove(temporary)
		}
	}()
	if err := create(temporary); err != nil {
		return err
	}
	err = dir.Rename(temporary, name)
	if errors.Is(err, fs.ErrExist) { // a directory is in the way
		if err := dir.RemoveAll(name); err != nil {
			return err
		}
		err = dir.Rename(temporary, name)
	}
	return err
}

func writeFile(p *pool, in *os.File, size int64, dir *os.Root, name string, mode fs.FileMode) error {
	out, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	err = copyContent(p, out, in, size)
	if err == nil {
		err = out.Chmod(mode)
	}
	// A full network disk may tell only now.
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}

// copyContent leaves a big file to the kernel's copy_file_range; a small one takes two calls by hand.
func copyContent(p *pool, out, in *os.File, size int64) error {
	if size > bufferSize {
		_, err := io.Copy(out, in)
		return err
	}
	buf := p.buffer()
	defer p.release(buf)
	n, err := in.ReadAt(buf[:size], 0)
	if err != nil {
		return err
	}
	_, err = out.Write(buf[:n])
	return err
}

// sameContent compares two files of the same size. A file that cannot be read
// is not known to be the same: copying it again tells why.
func sameContent(p *pool, in *os.File, dir *os.Root, name string, size int64) bool {
	old, err := dir.OpenFile(name, readOnly, 0)
	if err != nil {
		return false
	}
	defer old.Close()
	a, b := p.buffer(), p.buffer()
	defer p.release(a)
	defer p.release(b)
	for at := int64(0); at < size; at += bufferSize {
		n := min(size-at, bufferSize)
		if _, err := in.ReadAt(a[:n], at); err != nil {
			return false
		}
		if _, err := old.ReadAt(b[:n], at); err != nil || !bytes.Equal(a[:n], b[:n]) {
			return false
		}
	}
	return true
}

func executable(file fs.FileInfo) bool { return file.Mode()&0o100 != 0 }
