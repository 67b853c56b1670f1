package main

import (
	"os"
	"syscall"
	"testing"
)

// longestLink is the length of the longest link target, in bytes: PATH_MAX without its NUL.
const longestLink = 4095

// ownProgram returns a path of the test program that every user may execute.
func ownProgram() string { return "/proc/self/exe" }

// mountTmpfs mounts a small file system. It skips the test where that is impossible, except in CI as root.
func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	mount(t, "tmpfs", dir, "tmpfs", 0, options)
}

// bindMount shows a directory at a second path. It skips the test as mountTmpfs does.
func bindMount(t *testing.T, from, dir string) {
	t.Helper()
	mount(t, from, dir, "", syscall.MS_BIND, "")
}

func mount(t *testing.T, what, dir, fstype string, flags uintptr, options string) {
	t.Helper()
	needRoot(t)
	if err := syscall.Mount(what, dir, fstype, flags, options); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
}
