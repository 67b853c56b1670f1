package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What the image contains is not what its manifest promises: the run fails, copies no wrong entry,
// and copies all others.
func TestForgedImage(t *testing.T) {
	promised := parents(tree{"d/f": "file:f", "x": "exec:x", "l": "link:d/f", "e": "dir", "other": "file:other"})
	with := func(changes tree) tree {
		changed := maps.Clone(promised)
		for name, what := range changes {
			if changed[name] = what; what == "" {
				delete(changed, name)
			}
		}
		return changed
	}
	tests := map[string]struct {
		holds  tree
		wrong  map[string]string // the paths that the messages name
		absent []string          // what is not copied
	}{
		"content":              {with(tree{"d/f": "file:g"}), tree{"d/f": "the content differs from the manifest"}, []string{"d/f"}},
		"shorter":              {with(tree{"d/f": "file:"}), tree{"d/f": "the content differs from the manifest"}, []string{"d/f"}},
		"longer":               {with(tree{"d/f": "file:ff"}), tree{"d/f": "the content differs from the manifest"}, []string{"d/f"}},
		"executable":           {with(tree{"d/f": "exec:f"}), tree{"d/f": "the mode differs from the manifest: the file is executable"}, []string{"d/f"}},
		"not executable":       {with(tree{"x": "file:x"}), tree{"x": "the mode differs from the manifest: the file is not executable"}, []string{"x"}},
		"link":                 {with(tree{"l": "link:\x1b"}), tree{"l": `expected a link to "d/f", found a link to "\x1b"`}, []string{"l"}},
		"added file":           {with(tree{"d/n\n": "file:n"}), tree{"d/n\n": "not in the manifest"}, nil},
		"added link":           {with(tree{"n": "link:x"}), tree{"n": "not in the manifest"}, nil},
		"added tree":           {with(tree{"n": "dir", "n/f": "file:f"}), tree{"n": "not in the manifest"}, nil},
		"added file in a file": {with(tree{"x": "dir", "x/f": "file:f"}), tree{"x": "expected a file, found a directory"}, []string{"x"}},
		"added name not in UTF-8": {with(tree{"\xff": "file:n", "d/\xc3": "dir", "d/\xc3/x": "file:x"}), tree{
			"\xff": "not in the manifest", "d/\xc3": "not in the manifest"}, nil},
		"missing file":       {with(tree{"x": ""}), tree{"x": "in the manifest, but not in the image"}, []string{"x"}},
		"missing link":       {with(tree{"l": ""}), tree{"l": "in the manifest, but not in the image"}, []string{"l"}},
		"missing directory":  {with(tree{"d": "", "d/f": ""}), tree{"d": "in the manifest, but not in the image"}, []string{"d", "d/f"}},
		"link for file":      {with(tree{"x": "link:d"}), tree{"x": "expected a file, found a link"}, []string{"x"}},
		"link to right file": {with(tree{"x": "link:y", "y": "exec:x"}), tree{"x": "expected a file, found a link", "y": "not in the manifest"}, []string{"x"}},
		"file for link":      {with(tree{"l": "file:d/f"}), tree{"l": "expected a link, found a file"}, []string{"l"}},
		"file for directory": {with(tree{"e": "file:e"}), tree{"e": "expected a directory, found a file"}, []string{"e"}},
		"link for directory": {with(tree{"d": "link:r", "d/f": "", "r": "dir", "r/f": "file:f"}), tree{
			"d": "expected a directory, found a link", "r": "not in the manifest"}, []string{"d", "d/f"}},
		"fifo for file": {with(tree{"x": "fifo"}), tree{"x": "unsupported file type: expected a file, a directory or a link"}, []string{"x"}},
		"added fifo":    {with(tree{"n": "fifo"}), tree{"n": "unsupported file type: expected a file, a directory or a link"}, nil},
		"several": {with(tree{"x": "exec:y", "d/f": "file:g", "l": ""}), tree{
			"x": "the content differs from the manifest", "d/f": "the content differs from the manifest",
			"l": "in the manifest, but not in the image"}, []string{"x", "d/f", "l"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.holds)
			f.writeManifest(promised)
			var lines []string
			for name, wrong := range test.wrong {
				lines = append(lines, fmt.Sprintf("copy %q: %s", f.source+"/"+name, wrong))
			}
			slices.Sort(lines)
			after := maps.Clone(promised)
			for _, name := range test.absent {
				delete(after, name)
			}
			f.refuse(nil, lines...)
			wantTree(t, f.target, after)

			// What is in the workspace stays, and no later step begins.
			for _, name := range test.absent {
				if path.Dir(name) == "." {
					plant(t, f.target, tree{name: "file:old"})
					after[name] = "file:old"
				}
			}
			plant(t, f.target, tree{"extra": "file:extra"})
			after["extra"] = "file:extra"
			f.refuse([]string{"--mirror", "--verify"}, lines...)
			wantTree(t, f.target, after)

			// A workspace that is right already needs nothing of the image.
			must(t, os.RemoveAll(f.target))
			must(t, os.Mkdir(f.target, 0o755))
			plant(t, f.target, promised)
			f.run()
			wantTree(t, f.target, promised)
		})
	}
}

// Every piece of a file counts.
func TestForgedPiece(t *testing.T) {
	right := strings.Repeat("x", 3*bufferSize)
	for _, at := range []int{0, bufferSize - 1, bufferSize, 2*bufferSize + 1, 3*bufferSize - 1} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			f := newFixture(t, tree{"x": "file:" + right[:at] + "y" + right[at+1:]})
			f.writeManifest(tree{"x": "file:" + right})
			f.refuse(nil, fmt.Sprintf("copy %q: the content differs from the manifest", f.source+"/x"))
			wantTree(t, f.target, tree{})
		})
	}
}

// A file of another size is not read: it could fill the disk.
func TestForgedSize(t *testing.T) {
	f := newFixture(t, tree{"x": "file:x"})
	must(t, os.Truncate(f.source+"/x", 1<<40))
	mountTmpfs(t, f.target, "size=64k")
	f.refuse(nil, fmt.Sprintf("copy %q: the content differs from the manifest", f.source+"/x"))
}

// The workspace's own files are compared with the manifest, not with the image.
func TestForgedImageAndWorkspace(t *testing.T) {
	f := newFixture(t, tree{"x": "file:forged", "l": "link:forged"})
	f.writeManifest(tree{"x": "file:honest", "l": "link:honest"})
	plant(t, f.target, tree{"x": "file:forged", "l": "link:forged"})
	f.refuse(nil,
		fmt.Sprintf(`copy %q: expected a link to "honest", found a link to "forged"`, f.source+"/l"),
		fmt.Sprintf("copy %q: the content differs from the manifest", f.source+"/x"))
}

// A run that cannot trust the manifest writes nothing.
func TestManifestComesFirst(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, f *fixture)
		problem string
	}{
		"missing": {func(t *testing.T, f *fixture) { must(t, os.Remove(f.manifest)) }, "no such file or directory"},
		"version": {func(t *testing.T, f *fixture) { must(t, os.WriteFile(f.manifest, []byte(`{"version":4}`), 0o644)) },
			"unsupported version 4: this extractor reads versions 2 and 3"},
		"another digest": {func(t *testing.T, f *fixture) { f.digest = "sha256:" + sum },
			"the digest is sha256:" + digest(string(must2(json.Marshal(manifestOf(tree{"x": "file:x"}))))) + ", but KONTEXT_MANIFEST is sha256:" + sum},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{"x": "file:x"})
			test.prepare(t, f)
			f.target += "/new"
			f.refuse(nil, fmt.Sprintf("read manifest %q: %s", f.manifest, test.problem))
			wantTree(t, filepath.Dir(f.target), tree{})
		})
	}
}

func TestRightDigest(t *testing.T) {
	f := newFixture(t, tree{"x": "file:x"})
	f.digest = "sha256:" + digest(string(must2(os.ReadFile(f.manifest))))
	f.succeed()
	wantTree(t, f.target, tree{"x": "file:x"})
}

// Base images have links on the way to the sources: /var/run leads to /run.
func TestSourceIsLink(t *testing.T) {
	f := newFixture(t, parents(tree{"d/x": "file:x"}))
	must(t, os.Rename(f.source, f.source+"-real"))
	must(t, os.Symlink("source-real", f.source))
	f.succeed()
	wantTree(t, f.target, parents(tree{"d/x": "file:x"}))
	must(t, os.Remove(f.source))
	must(t, os.Symlink("/", f.source))
	if code, _, stderr := f.run(); code != exitFailed || !strings.Contains(stderr, "refusing to write into the sources") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// The paths in the parts of the manifest are compared, too.
func TestForgedImageWithParts(t *testing.T) {
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
			if code, _, stderr := f.run(); code != exitFailed || !strings.Contains(stderr, test.problem) {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}

func TestTenProblemsArePrinted(t *testing.T) {
	promised, holds := tree{}, tree{}
	for i := range 25 {
		name := fmt.Sprintf("f%02d", i)
		promised[name], holds[name] = "file:right", "file:wrong"
	}
	f := newFixture(t, holds)
	f.writeManifest(promised)
	_, _, stderr := f.run()
	lines := strings.Split(stderr, "\n")
	if len(lines) != 12 || !strings.Contains(lines[9], "f09") || lines[10] != "kontext: and 15 more" {
		t.Errorf("stderr is\n%s", stderr)
	}
}
