package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerify(t *testing.T) {
	promised := parents(tree{"d/f": "file:f", "x": "exec:x", "l": "link:d/f", "e": "dir"})
	with := func(changes tree) tree {
		changed := maps.Clone(promised)
		for name, what := range changes {
			if changed[name] = what; what == "" {
				delete(changed, name)
			}
		}
		return changed
	}
	const (
		source = iota
		target
	)
	type wrong struct {
		where int
		name  string
		what  string
	}
	// What the image contains instead of what its manifest promises.
	tests := map[string]struct {
		holds tree
		wrong []wrong
	}{
		"nothing":        {with(tree{}), nil},
		"content":        {with(tree{"d/f": "file:g"}), []wrong{{target, "d/f", "the content differs from the manifest"}}},
		"length":         {with(tree{"d/f": "file:"}), []wrong{{target, "d/f", "the content differs from the manifest"}}},
		"executable":     {with(tree{"d/f": "exec:f"}), []wrong{{target, "d/f", "the mode differs from the manifest: the file is executable"}}},
		"not executable": {with(tree{"x": "file:x"}), []wrong{{target, "x", "the mode differs from the manifest: the file is not executable"}}},
		"link":           {with(tree{"l": "link:\x1b"}), []wrong{{target, "l", `expected a link to "d/f", found a link to "\x1b"`}}},
		"added":          {with(tree{"d/n\n": "file:n"}), []wrong{{source, "d/n\n", "not in the manifest"}}},
		"added link":     {with(tree{"n": "link:x"}), []wrong{{source, "n", "not in the manifest"}}},
		"added tree":     {with(tree{"n": "dir", "n/f": "file:f"}), []wrong{{source, "n", "not in the manifest"}}},
		"missing": {with(tree{"x": ""}), []wrong{
			{source, "x", "no such file or directory"}, {target, "x", "no such file or directory"}}},
		"missing directory": {with(tree{"d": "", "d/f": ""}), []wrong{
			{source, "d", "no such file or directory"}, {target, "d", "no such file or directory"}}},
		"link for file": {with(tree{"x": "link:d"}), []wrong{
			{source, "x", "expected a file, found a link"}, {target, "x", "expected a file, found a link"}}},
		"file for link": {with(tree{"l": "file:l"}), []wrong{
			{source, "l", "expected a link, found a file"}, {target, "l", "expected a link, found a file"}}},
		"directory for file": {with(tree{"x": "dir"}), []wrong{
			{source, "x", "expected a file, found a directory"}, {target, "x", "expected a file, found a directory"}}},
		"file for directory": {with(tree{"e": "file:e"}), []wrong{
			{source, "e", "expected a directory, found a file"}, {target, "e", "expected a directory, found a file"}}},
		"several": {with(tree{"x": "file:y", "d/f": "file:g"}), []wrong{
			{target, "d/f", "the content differs from the manifest"}, {target, "x", "the content differs from the manifest"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.holds)
			f.writeManifest(promised)
			if test.wrong == nil {
				f.succeed("--verify")
				return
			}
			var lines []string
			for _, w := range test.wrong {
				dir := f.source
				if w.where == target {
					dir = f.target
				}
				lines = append(lines, fmt.Sprintf("verify %q: %s", dir+"/"+w.name, w.what))
			}
			f.refuse([]string{"--verify"}, lines...)
		})
	}
}

// The target changes after the copy.
func TestVerifyTarget(t *testing.T) {
	promised := parents(tree{"d/f": "file:f", "l": "link:d"})
	tests := map[string]struct {
		extra  tree
		mirror bool
		wrong  string
	}{
		"extra file":                              {tree{"n": "file:n"}, false, ""},
		"extra file, mirrored":                    {tree{"n": "file:n"}, true, "n"},
		"extra link in a directory, mirrored":     {tree{"d/n": "link:n"}, true, "d/n"},
		"extra directory, mirrored":               {tree{"n": "dir"}, true, "n"},
		"extra .git, mirrored":                    {tree{".git": "dir", ".git/HEAD": "file:ref", "d/.git": "file:x", "n": "dir", "n/.git": "link:x"}, true, ""},
		"extra directory beside a .git, mirrored": {tree{"n": "dir", "n/.git": "dir", "n/d": "dir", "n/d/n": "file:n"}, true, "n/d"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, promised)
			f.succeed()
			plant(t, f.target, test.extra)
			trees, err := openTrees(f.source, f.target, false)
			must(t, err)
			defer trees.close()
			p := newPool()
			verify(p, trees, must2(readManifest(f.manifest)), test.mirror)
			var want []error
			if test.wrong != "" {
				want = []error{fmt.Errorf("verify %q: not in the manifest", f.target+"/"+test.wrong)}
			}
			if got := p.problems(); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestVerifyPrintsTenProblems(t *testing.T) {
	promised, holds := tree{}, tree{}
	for i := range 25 {
		name := fmt.Sprintf("f%02d", i)
		promised[name], holds[name] = "file:right", "file:wrong"
	}
	f := newFixture(t, holds)
	f.writeManifest(promised)
	_, _, stderr := f.run("--verify")
	lines := strings.Split(stderr, "\n")
	if len(lines) != 12 || !strings.Contains(lines[9], "f09") || lines[10] != "kontext: and 15 more" {
		t.Errorf("stderr is\n%s", stderr)
	}
}

// A run that cannot read the manifest writes nothing.
func TestVerifyNeedsManifest(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, file string)
		problem string
	}{
		"missing": {func(t *testing.T, file string) { must(t, os.Remove(file)) }, "no such file or directory"},
		"version": {func(t *testing.T, file string) { must(t, os.WriteFile(file, []byte(`{"version":3}`), 0o644)) }, "unsupported version 3: this extractor reads version 2"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{"x": "file:x"})
			test.prepare(t, f.manifest)
			f.refuse([]string{"--verify"}, fmt.Sprintf("read manifest %q: %s", f.manifest, test.problem))
			wantTree(t, f.target, tree{})
		})
	}
}

// verify compares the paths in the parts of the manifest, too.
func TestVerifyWithParts(t *testing.T) {
	top, part := tree{"d": "dir", "x": "exec:x"}, tree{"d/f": "file:f", "d/l": "link:f"}
	sources := maps.Clone(top)
	maps.Copy(sources, part)
	tests := map[string]struct {
		holds   tree
		problem string
	}{
		"right":     {sources, ""},
		"wrong":     {tree{"d": "dir", "x": "exec:x", "d/f": "file:g", "d/l": "link:f"}, "the content differs from the manifest"},
		"not there": {tree{"d": "dir", "x": "exec:x", "d/f": "file:f", "d/l": "link:f", "d/n": "file:n"}, "not in the manifest"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.holds)
			data := must2(json.Marshal(manifestOf(part)))
			columns := manifestOf(top)
			columns["parts"] = []string{digest(string(data))}
			must(t, os.WriteFile(f.manifest, must2(json.Marshal(columns)), 0o644))
			must(t, os.Mkdir(filepath.Dir(f.manifest)+"/parts", 0o755))
			must(t, os.WriteFile(partFile(f.manifest, digest(string(data))), data, 0o644))
			if test.problem == "" {
				f.succeed("--verify", "--mirror")
				return
			}
			if code, _, stderr := f.run("--verify"); code != exitFailed || !strings.Contains(stderr, test.problem) {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}
