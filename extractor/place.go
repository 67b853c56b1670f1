package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// placeFile makes the target's file equal to the source's. It reports whether it changed anything.
func placeFile(p *pool, here trees, name string) (changed bool, err error) {
	in, err := here.source.openFile(name, os.O_RDONLY, 0)
	if err != nil {
		return false, failed("read", here.source, name, err)
	}
	defer in.close()
	want, err := in.stat()
	if err != nil {
		return false, failed("read", here.source, name, err)
	}
	mode := uint32(0o644)
	if executable(uint32(want.Mode)) {
		mode = 0o755
	}
	if done, changed := reconcile(p, in, want, here.target, name, mode); done {
		return changed, nil
	}
	err = replace(here.target, name, func(temporary string) error {
		return writeFile(p, in, want.Size, here.target, temporary, mode)
	})
	if err != nil {
		return false, failed("write", here.target, name, err)
	}
	return true, nil
}

// reconcile reports whether the file in the target is done: right before, or right with
// another mode. An unreadable file is not done. Its replacement reports the error, if any.
func reconcile(p *pool, in file, want syscall.Stat_t, target dir, name string, mode uint32) (done, changed bool) {
	there, err := target.openFile(name, os.O_RDONLY, 0)
	if err != nil {
		return false, false
	}
	defer there.close()
	old, err := there.stat()
	if err != nil || old.Mode&syscall.S_IFMT != syscall.S_IFREG || old.Size != want.Size || !sameContent(p, in, there, want.Size) {
		return false, false
	}
	if executable(uint32(old.Mode)) == executable(uint32(want.Mode)) {
		return true, false
	}
	// A file with other hard links may share its mode with a file outside of the target.
	// The chmod of another user's file fails. Both files are replaced.
	done = old.Nlink == 1 && syscall.Fchmod(int(there), mode) == nil
	return done, done
}

// placeLink makes the target's symbolic link equal to the source's. It reports whether it
// changed anything. It follows neither link.
func placeLink(_ *pool, here trees, name string) (changed bool, err error) {
	to, err := here.source.Readlink(name)
	if err != nil {
		return false, failed("read", here.source, name, err)
	}
	if old, err := here.target.Readlink(name); err == nil && old == to {
		return false, nil
	}
	err = replace(here.target, name, func(temporary string) error {
		return here.target.Symlink(to, temporary)
	})
	if err != nil {
		return false, failed("write", here.target, name, err)
	}
	return true, nil
}

var errGitInTheWay = errors.New("the directory in its place contains a .git; move the .git away first")

// replace creates a file or link under a temporary name and renames it to name, so that no
// program reads an incomplete file. A directory of that name goes, unless it contains a .git.
// The temporary name does not contain name, which can have the greatest length.
func replace(target dir, name string, create func(temporary string) error) (err error) {
	temporary := ".kontext-" + rand.Text()
	defer func() {
		if err != nil {
			target.Remove(temporary)
		}
	}()
	if err := create(temporary); err != nil {
		return err
	}
	err = target.Rename(temporary, name)
	if errors.Is(err, fs.ErrExist) { // a directory is in the way
		if err = removeDir(target, name); err == nil {
			err = target.Rename(temporary, name)
		}
	}
	return err
}

// removeDir removes a directory, unless it contains a .git at any depth.
func removeDir(parent dir, name string) error {
	_, git, err := staleInside(parent, name)
	switch {
	case err != nil:
		return err
	case git:
		return errGitInTheWay
	}
	return parent.RemoveAll(name)
}

func writeFile(p *pool, in file, size int64, target dir, name string, mode uint32) error {
	out, err := target.openFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	// A default ACL or the file system can change the mode.
	if made, failed := out.stat(); failed == nil && uint32(made.Mode)&0o777 != mode {
		err = syscall.Fchmod(int(out), mode)
	}
	if err == nil {
		err = copyContent(p, out, in, size)
	}
	// A network file system can report a full disk here.
	if closed := out.close(); err == nil {
		err = closed
	}
	return err
}

func copyContent(p *pool, out, in file, size int64) error {
	buf := p.buffer()
	defer p.release(buf)
	for at := int64(0); at < size; at += bufferSize {
		piece := buf[:min(size-at, bufferSize)]
		if err := in.readAt(piece, at); err != nil {
			return err
		}
		if err := out.write(piece); err != nil {
			return err
		}
	}
	return nil
}

// sameContent compares two files of the same size.
func sameContent(p *pool, in, there file, size int64) bool {
	a, b := p.buffer(), p.buffer()
	defer p.release(a)
	defer p.release(b)
	for at := int64(0); at < size; at += bufferSize {
		n := min(size-at, bufferSize)
		if in.readAt(a[:n], at) != nil || there.readAt(b[:n], at) != nil || !bytes.Equal(a[:n], b[:n]) {
			return false
		}
	}
	return true
}

func executable(mode uint32) bool { return mode&0o100 != 0 }
