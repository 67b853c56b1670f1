package main

import (
	"encoding/json"
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
		"file in a subdirectory": {tree{"d/e/x": "file:x"}, 1},
		"directory":              {parents(tree{"x/y/z": "file:z", "x/w": "file:w"}), 1},
		"empty directory":        {tree{"d/x": "dir"}, 1},
		"fifo":                   {tree{"x": "fifo"}, 1},
		"link to a directory":    {tree{"x": "link:../outside"}, 1},
		"link in a directory":    {parents(tree{"x/y": "link:../../outside"}), 1},
		"link to a file":         {tree{"d/x": "link:../../outside/precious"}, 1},
		"old temporary file":     {tree{".kontext-ABC": "file:half"}, 1},
		"strange names":          {tree{"-rf": "file:1", "a\nb": "file:2", "\xff": "dir", "...": "dir"}, 4},
		"more than one listing":  {manyExtra(1000), 1000},
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

func manyExtra(count int) tree {
	extra := tree{}
	for i := range count {
		extra[fmt.Sprintf("d/x%d", i)] = "file:"
	}
	return extra
}

// A mirrorCase is one case of ../tests/data/mirror_cases.json. `docker kontext pull --mirror` passes
// the same cases. A tree maps each path to its spec: null is a directory, a string is a file's
// content, {"link": TARGET} is a symbolic link. Parent directories need no entry.
type mirrorCase struct {
	Name      string
	Image     jsonTree // what the image holds
	Workspace jsonTree // what the workspace holds before the run
	Outside   jsonTree // what the directory "outside" beside the workspace holds, before and after
	Left      jsonTree // all that the workspace holds after the run
	Removed   int      // the count that a successful run prints
	Error     string   // the path, in the workspace, that the error names; "" for success
}

type jsonTree tree

func (read *jsonTree) UnmarshalJSON(data []byte) error {
	var specs map[string]any
	if err := json.Unmarshal(data, &specs); err != nil {
		return err
	}
	*read = jsonTree{}
	for name, spec := range specs {
		switch spec := spec.(type) {
		case nil:
			(*read)[name] = "dir"
		case string:
			(*read)[name] = "file:" + spec
		case map[string]any:
			(*read)[name] = fmt.Sprintf("link:%s", spec["link"])
		default:
			return fmt.Errorf("%q: no spec: %v", name, spec)
		}
	}
	parents(tree(*read))
	return nil
}

func TestMirrorCases(t *testing.T) {
	var cases []mirrorCase
	must(t, json.Unmarshal(must2(os.ReadFile("../tests/data/mirror_cases.json")), &cases))
	if len(cases) < 14 {
		t.Errorf("only %d cases", len(cases))
	}
	for _, test := range cases {
		t.Run(test.Name, func(t *testing.T) {
			f := newFixture(t, tree(test.Image))
			plant(t, f.target, tree(test.Workspace))
			must(t, os.RemoveAll(f.outside))
			must(t, os.Mkdir(f.outside, 0o755))
			plant(t, f.outside, tree(test.Outside))
			check := func() {
				wantTree(t, f.target, tree(test.Left))
				wantTree(t, f.outside, tree(test.Outside))
			}
			if test.Error != "" {
				want := fmt.Sprintf("write %q: %v", f.target+"/"+test.Error, errGitInTheWay)
				f.refuse(nil, want)
				check()
				f.refuse([]string{"--mirror", "--verify"}, want)
				check()
				return
			}
			for _, removed := range []int{test.Removed, 0} {
				summary := f.succeed("--mirror", "--verify")
				if want := fmt.Sprintf(", %d removed, verified in", removed); !strings.Contains(summary, want) {
					t.Errorf("summary is %q, want %q", summary, want)
				}
				check()
			}
		})
	}
}

func TestMirrorDoesNotStartAfterFailure(t *testing.T) {
	f := newFixture(t, tree{"bad": "fifo"})
	plant(t, f.target, tree{"keep": "file:keep"})
	f.refuse([]string{"--mirror"}, fmt.Sprintf("copy %q: unsupported file type: expected a file, a directory or a link", f.source+"/bad"))
	wantTree(t, f.target, tree{"keep": "file:keep"})
}

func TestMirrorReportsFailedRemoval(t *testing.T) {
	f := newFixture(t, tree{})
	plant(t, f.target, tree{"a": "dir", "a/mount": "dir"})
	mountTmpfs(t, f.target+"/a/mount", "")
	f.refuse([]string{"--mirror"}, fmt.Sprintf("remove %q: device or resource busy", f.target+"/a"))
	if _, err := os.Stat(f.target + "/a/mount"); err != nil {
		t.Error(err)
	}
}

// An unreadable directory can contain a .git.
func TestMirrorKeepsUnreadableDirectory(t *testing.T) {
	f := newFixture(t, tree{})
	plant(t, f.target, tree{"d": "dir"})
	giveToUser(t, f.target)
	must(t, os.Chmod(f.target+"/d", 0))
	code, output := f.runAsUser("--mirror")
	if want := fmt.Sprintf("kontext: open %q: permission denied\n", f.target+"/d"); code != exitFailed || output != want {
		t.Errorf("exit code %d: %s", code, output)
	}
	must(t, os.Chmod(f.target+"/d", 0o755))
	wantTree(t, f.target, tree{"d": "dir"})
}
