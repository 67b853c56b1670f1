package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestMissingSource(t *testing.T) {
	f := newFixture(t, tree{})
	must(t, os.Remove(f.source))
	must(t, os.Remove(f.target))
	f.refuse(nil, "this image contains no sources: "+f.source+" does not exist")
	if _, err := os.Lstat(f.target); err == nil {
		t.Error("DIR was created")
	}
}

func TestTarget(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, f *fixture)
		problem func(f *fixture) string // nil if the target is fine
	}{
		"missing": {
			func(_ *testing.T, f *fixture) { f.target += "/a/b/c" }, nil,
		},
		"a link to a directory": {
			func(t *testing.T, f *fixture) {
				plant(t, f.target, tree{"real": "dir", "l": "link:real"})
				f.target += "/l"
			}, nil,
		},
		"inside a link to a directory": {
			func(t *testing.T, f *fixture) {
				plant(t, f.target, tree{"real": "dir", "l": "link:real"})
				f.target += "/l/x"
			}, nil,
		},
		"a file": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"f": "file:f"}); f.target += "/f" },
			func(f *fixture) string { return fmt.Sprintf("open %q: not a directory", f.target) },
		},
		"inside a file": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"f\t": "file:f"}); f.target += "/f\t/d" },
			func(f *fixture) string { return fmt.Sprintf("open %q: not a directory", f.target) },
		},
		"a fifo": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"p": "fifo"}); f.target += "/p" },
			func(f *fixture) string { return fmt.Sprintf("open %q: not a directory", f.target) },
		},
		"a dangling link": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"l": "link:gone"}); f.target += "/l" },
			func(f *fixture) string { return fmt.Sprintf("mkdir %q: file exists", f.target) },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{"x": "file:x"})
			test.prepare(t, f)
			if test.problem != nil {
				f.refuse(nil, test.problem(f))
				return
			}
			f.succeed()
			wantTree(t, must2(filepath.EvalSymlinks(f.target)), tree{"x": "file:x"})
		})
	}
}

// The test calls only the check. A run with a broken check could fill the disk or remove all files.
func TestCheckOverlap(t *testing.T) {
	const (
		into = "refusing to write into the sources of the image: %q"
		lose = "refusing --mirror: it would remove the sources of the image, which are in %q"
		fine = ""
	)
	at := func(path string) func(*testing.T, *fixture) string {
		return func(_ *testing.T, f *fixture) string { return filepath.Join(f.source, path) }
	}
	link := func(to, rest string) func(*testing.T, *fixture) string {
		return func(t *testing.T, f *fixture) string {
			plant(t, f.target, tree{"l": "link:" + to})
			return filepath.Join(f.target, "l", rest)
		}
	}
	mounted := func(t *testing.T, f *fixture) string {
		bindMount(t, f.source, f.target)
		return filepath.Join(f.target, "d")
	}
	root := func(*testing.T, *fixture) string { return "/" }

	tests := map[string]struct {
		target          func(t *testing.T, f *fixture) string
		plain, mirrored string
	}{
		"the sources":               {at("."), into, into},
		"inside the sources":        {at("d"), into, into},
		"missing and inside":        {at("d/new/er"), into, into},
		"inside, through a link":    {link("../source/d", "new"), into, into},
		"inside, through a mount":   {mounted, into, into},
		"parent of the sources":     {at(".."), fine, lose},
		"ancestor of the sources":   {at("../.."), fine, lose},
		"parent, through a link":    {link("..", ""), fine, lose},
		"the root":                  {root, fine, lose},
		"the root, through a link":  {link("/", ""), fine, lose},
		"sibling of the sources":    {at("../workspace"), fine, fine},
		"missing and outside":       {at("../new/er"), fine, fine},
		"name with the same prefix": {at("../source2"), fine, fine},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{"d": "dir"})
			target := test.target(t, f)
			for mirror, want := range map[bool]string{false: test.plain, true: test.mirrored} {
				if want != fine {
					want = fmt.Sprintf(want, target)
				}
				got := ""
				if err := checkOverlap(f.source, target, mirror); err != nil {
					got = err.Error()
				}
				if got != want {
					t.Errorf("mirror %v: got %q, want %q", mirror, got, want)
				}
			}
		})
	}
}

// A run calls the check. With a broken check, these two runs would only change the fixture.
func TestRunChecksOverlap(t *testing.T) {
	sources := tree{"x": "file:x"}
	f := newFixture(t, sources)
	f.target = f.source
	f.refuse(nil, fmt.Sprintf("refusing to write into the sources of the image: %q", f.target))
	f.target = filepath.Dir(f.source)
	f.refuse([]string{"--mirror"}, fmt.Sprintf("refusing --mirror: it would remove the sources of the image, which are in %q", f.target))
	wantTree(t, f.source, sources)
	f.outsideIsUntouched()
}

// Without --mirror, the target may contain the sources.
func TestTargetContainsSources(t *testing.T) {
	f := newFixture(t, tree{"x": "file:x"})
	f.target = filepath.Dir(f.source)
	f.succeed()
	wantTree(t, f.source, tree{"x": "file:x"})
	f.outsideIsUntouched()
}
