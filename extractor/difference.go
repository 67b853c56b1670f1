package main

import (
	"io/fs"
	"strconv"
)

// A difference is between an entry and what the manifest says of it.
type difference string

const (
	errContent  difference = "the content differs from the manifest"
	errUnlisted difference = "not in the manifest"
	errMissing  difference = "in the manifest, but not in the image"
)

func (d difference) Error() string { return string(d) }

// isDifference reports whether a problem is a difference.
func isDifference(err error) bool {
	_, found := innermost(err).(difference)
	return found
}

func checkKind(have fs.FileMode, want item) error {
	if have != want.kind {
		return difference("expected " + kindName(want.kind) + ", found " + kindName(have))
	}
	return nil
}

func checkMode(mode uint32, want item) error {
	switch {
	case executable(mode) && !want.executable:
		return difference("the mode differs from the manifest: the file is executable")
	case !executable(mode) && want.executable:
		return difference("the mode differs from the manifest: the file is not executable")
	}
	return nil
}

func checkLink(in dir, name string, want item) error {
	to, err := in.Readlink(name)
	if err != nil {
		return err
	}
	if to != want.to {
		return difference("expected a link to " + strconv.Quote(want.to) + ", found a link to " + strconv.Quote(to))
	}
	return nil
}

func executable(mode uint32) bool { return mode&0o100 != 0 }

func kindName(kind fs.FileMode) string {
	switch kind {
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
