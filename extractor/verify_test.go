package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The target changes after the copy.
func TestVerify(t *testing.T) {
	promised := parents(tree{"d/f": "file:f", "x": "exec:x", "l": "link:d/f", "e": "dir"})
	extra := func(changes tree) func(*testing.T, string) {
		return func(t *testing.T, target string) { plant(t, target, changes) }
	}
	instead := func(name, what string) func(*testing.T, string) {
		return func(t *testing.T, target string) {
			must(t, os.RemoveAll(filepath.Join(target, name)))
			if what != "" {
				plant(t, target, tree{name: what})
			}
		}
	}
	tests := map[string]struct {
		change func(t *testing.T, target string)
		mirror bool
		name   string // of the path that differs
		wrong  string
	}{
		"nothing":                             {extra(nil), true, "", ""},
		"content":                             {instead("d/f", "file:g"), false, "d/f", "the content differs from the manifest"},
		"length":                              {instead("d/f", "file:"), false, "d/f", "the content differs from the manifest"},
		"executable":                          {instead("d/f", "exec:f"), false, "d/f", "the mode differs from the manifest: the file is executable"},
		"not executable":                      {instead("x", "file:x"), false, "x", "the mode differs from the manifest: the file is not executable"},
		"link":                                {instead("l", "link:\x1b"), false, "l", `expected a link to "d/f", found a link to "\x1b"`},
		"missing":                             {instead("x", ""), false, "x", "no such file or directory"},
		"missing directory":                   {instead("d", ""), false, "d", "no such file or directory"},
		"link for file":                       {instead("x", "link:x"), false, "x", "expected a file, found a link"},
		"fifo for file":                       {instead("x", "fifo"), false, "x", "expected a file, found a special file"},
		"file for link":                       {instead("l", "file:d/f"), false, "l", "expected a link, found a file"},
		"directory for file":                  {instead("x", "dir"), false, "x", "expected a file, found a directory"},
		"link for directory":                  {instead("e", "link:d"), false, "e", "expected a directory, found a link"},
		"extra file":                          {extra(tree{"n": "file:n"}), false, "", ""},
		"extra file, mirrored":                {extra(tree{"n": "file:n"}), true, "n", "not in the manifest"},
		"extra link in a directory, mirrored": {extra(tree{"d/n": "link:n"}), true, "d/n", "not in the manifest"},
		"extra directory, mirrored":           {extra(tree{"n": "dir"}), true, "n", "not in the manifest"},
		"extra .git, mirrored":                {extra(tree{".git": "dir", ".git/HEAD": "file:ref", "d/.git": "file:x", "n": "dir", "n/.git": "link:x"}), true, "", ""},
		"extra directory beside a .git, mirrored": {extra(tree{"n": "dir", "n/.git": "dir", "n/d": "dir", "n/d/n": "file:n"}), true, "n/d", "not in the manifest"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, promised)
			f.succeed()
			test.change(t, f.target)
			target := must2(openDir(f.target))
			defer target.close()
			p := newPool()
			verify(p, target, must2(readAny(f.manifest)), test.mirror)
			var want []error
			if test.name != "" {
				want = []error{fmt.Errorf("verify %q: %s", f.target+"/"+test.name, test.wrong)}
			}
			if got := p.problems(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
