//go:build !linux

package main

import (
	"os"
	"testing"
)

// longestLink is the length of the longest link target, in bytes: PATH_MAX without its NUL.
const longestLink = 1023

func ownProgram() string { return must2(os.Executable()) }

func mountTmpfs(t *testing.T, _, _ string) {
	t.Helper()
	t.Skip("mounts a tmpfs, which only Linux has")
}

func bindMount(t *testing.T, _, _ string) {
	t.Helper()
	t.Skip("makes a bind mount, which only Linux has")
}
