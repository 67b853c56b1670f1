package main

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
)

func TestMirror(t *testing.T) {
	sources := parents(tree{"d/e/f": "file:f", "l": "link:d"})
	tests := map[string]struct {
		extra   tree
		removed int
	}{
		"nothing":                {tree{}, 0},
		"file":                   {tree{"x": "file:x"}, 1},
		"file far below":         {tree{"d/e/x": "file:x"}, 1},
		"directory":              {parents(tree{"x/y/z": "file:z", "x/w": "file:w"}), 1},
		"empty directory":        {tree{"d/x": "dir"}, 1},
		"fifo":                   {tree{"x": "fifo"}, 1},
		"link to a directory":    {tree{"x": "link:../outside"}, 1},
		"link below a directory": {parents(tree{"x/y": "link:../../outside"}), 1},
		"link to a file":         {tree{"d/x": "link:../../outside/precious"}, 1},
		"left temporary":         {tree{".kontext-ABC": "file:half"}, 1},
		"strange names":          {tree{"-rf": "file:1", "a\nb": "file:2", "\xff": "dir", "...": "dir"}, 4},
		"more than one listing":  {more(1000), 1000},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sources)
			before := maps.Clone(sources)
			maps.Copy(before, test.extra)
			plant(t, f.target, before)
			summary := f.succeed("--mirror", "--verify")
			if want := fmt.Sprintf(", %d removed,", test.removed); !strings.Contains(summary, want) {
				t.Errorf("summary is %q", summary)
			}
			wantTree(t, f.target, sources)
			f.outsideIsUntouched()
		})
	}
}

func more(count int) tree {
	extra := tree{}
	for i := range count {
		extra[fmt.Sprintf("d/x%d", i)] = "file:"
	}
	return extra
}

func TestMirrorIsNotStartedAfterAnError(t *testing.T) {
	f := newFixture(t, tree{"bad": "fifo"})
	plant(t, f.target, tree{"keep": "file:keep"})
	f.refuse([]string{"--mirror"}, fmt.Sprintf("copy %q: neither a file, a directory nor a link", f.source+"/bad"))
	wantTree(t, f.target, tree{"keep": "file:keep"})
}

func TestMirrorNamesWhatItCannotRemove(t *testing.T) {
	f := newFixture(t, tree{})
	plant(t, f.target, tree{"a": "dir", "a/mount": "dir"})
	mountTmpfs(t, f.target+"/a/mount", "")
	f.refuse([]string{"--mirror"}, fmt.Sprintf("remove %q: device or resource busy", f.target+"/a"))
	if _, err := os.Stat(f.target + "/a/mount"); err != nil {
		t.Error(err)
	}
}
