package main

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
)

// placeFile makes the target's file that of the manifest, with the source's content. It reports
// whether it changed anything. It does not read the source if the target is right.
func placeFile(p *pool, here trees, name string, want item) (changed bool, err error) {
	mode := uint32(0o644)
	if want.executable {
		mode = 0o755
	}
	if !here.empty {
		if done, changed := reconcile(p, here.target, name, want, mode); done {
			return changed, nil
		}
	}
	in, err := here.source.openFile(name, os.O_RDONLY, 0)
	if err != nil {
		return false, failed("read", here.source, name, err)
	}
	defer in.close()
	have, err := in.stat()
	if err != nil {
		return false, failed("read", here.source, name, err)
	}
	if err = checkMode(uint32(have.Mode), want); err == nil {
		err = replace(here.target, name, func(temporary string) error {
			return writeFile(p, in, have, here.target, temporary, want, mode)
		})
	}
	switch {
	case isDifference(err):
		return false, failed("copy", here.source, name, err)
	case err != nil:
		return false, failed("write", here.target, name, err)
	}
	return true, nil
}

// reconcile reports whether the file in the target is done: right before, or right with
// another mode. An unreadable file is not done. Its replacement reports the error, if any.
func reconcile(p *pool, target dir, name string, want item, mode uint32) (done, changed bool) {
	there, err := target.openFile(name, os.O_RDONLY, 0)
	if err != nil {
		return false, false
	}
	defer there.close()
	old, err := there.stat()
	if err != nil || old.Mode&syscall.S_IFMT != syscall.S_IFREG || p.checkContent(there, old, want) != nil {
		return false, false
	}
	if executable(uint32(old.Mode)) == want.executable {
		return true, false
	}
	// A file with other hard links may share its mode with a file outside of the target.
	// The chmod of another user's file fails. Both files are replaced.
	done = old.Nlink == 1 && syscall.Fchmod(int(there), mode) == nil
	return done, done
}

// placeLink makes the target's symbolic link that of the manifest and the source. It reports
// whether it changed anything. It follows neither link.
func placeLink(_ *pool, here trees, name string, want item) (changed bool, err error) {
	if old, err := here.target.Readlink(name); err == nil && old == want.to {
		return false, nil
	}
	if err := checkLink(here.source, name, want); err != nil {
		return false, failed("copy", here.source, name, err)
	}
	err = replace(here.target, name, func(temporary string) error {
		return here.target.Symlink(want.to, temporary)
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
	temporary := ".kontext-" + strconv.FormatUint(rand.Uint64(), 36)
	defer func() {
		if err != nil {
			target.Remove(temporary)
		}
	}()
	if err := create(temporary); err != nil {
		return err
	}
	err = target.rename(temporary, name)
	if errors.Is(err, fs.ErrExist) { // a directory is in the way
		if err = removeDir(target, name); err == nil {
			err = target.rename(temporary, name)
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

func writeFile(p *pool, in file, have syscall.Stat_t, target dir, name string, want item, mode uint32) error {
	out, err := target.openFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	// A default ACL or the file system can change the mode.
	if made, failed := out.stat(); failed == nil && uint32(made.Mode)&0o777 != mode {
		err = syscall.Fchmod(int(out), mode)
	}
	if err == nil {
		err = p.readContent(in, have, want, out.write)
	}
	// A network file system can report a full disk here.
	if closed := out.close(); err == nil {
		err = closed
	}
	return err
}
