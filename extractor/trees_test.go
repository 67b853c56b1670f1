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
	f.refuse(nil, "this image holds no sources: "+f.source+" is missing")
	if _, err := os.Lstat(f.target); err == nil {
		t.Error("DIR was made for nothing")
	}
}

func TestTarget(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, f *fixture)
		problem func(f *fixture) string // "" where it works
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
		"below a link": {
			func(t *testing.T, f *fixture) {
				plant(t, f.target, tree{"real": "dir", "l": "link:real"})
				f.target += "/l/x"
			}, nil,
		},
		"a file": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"f": "file:f"}); f.target += "/f" },
			func(f *fixture) string { return fmt.Sprintf("use %q: not a directory", f.target) },
		},
		"below a file": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"f\t": "file:f"}); f.target += "/f\t/d" },
			func(f *fixture) string { return fmt.Sprintf("use %q: not a directory", f.target) },
		},
		"a fifo": {
			func(t *testing.T, f *fixture) { plant(t, f.target, tree{"p": "fifo"}); f.target += "/p" },
			func(f *fixture) string { return fmt.Sprintf("use %q: not a directory", f.target) },
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

// The guard alone is called, and never a whole run: with a broken guard that
// run would fill the disk, or empty the machine.
func TestCheckApart(t *testing.T) {
	const (
		into = "refusing to extract into the sources themselves: %q"
		lose = "refusing --mirror: %q contains the sources and would lose them"
		fine = ""
	)
	at := func(path string) func(*testing.T, *fixture) string {
		return func(_ *testing.T, f *fixture) string { return filepath.Join(f.source, path) }
	}
	link := func(to, below string) func(*testing.T, *fixture) string {
		return func(t *testing.T, f *fixture) string {
			plant(t, f.target, tree{"l": "link:" + to})
			return filepath.Join(f.target, "l", below)
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
		"the sources":            {at("."), into, into},
		"below the sources":      {at("d"), into, into},
		"to be made below them":  {at("d/new/er"), into, into},
		"below them, by a link":  {link("../source/d", "new"), into, into},
		"below them, by a mount": {mounted, into, into},
		"around the sources":     {at(".."), fine, lose},
		"far around them":        {at("../.."), fine, lose},
		"around them, by a link": {link("..", ""), fine, lose},
		"the root":               {root, fine, lose},
		"the root, by a link":    {link("/", ""), fine, lose},
		"beside the sources":     {at("../workspace"), fine, fine},
		"to be made beside them": {at("../new/er"), fine, fine},
		"of a similar name":      {at("../source2"), fine, fine},
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
				if err := checkApart(f.source, target, mirror); err != nil {
					got = err.Error()
				}
				if got != want {
					t.Errorf("mirror %v: got %q, want %q", mirror, got, want)
				}
			}
		})
	}
}

// A run asks the guard. With a broken one, these two could only harm the fixture.
func TestSourcesAreNotTheTarget(t *testing.T) {
	sources := tree{"x": "file:x"}
	f := newFixture(t, sources)
	f.target = f.source
	f.refuse(nil, fmt.Sprintf("refusing to extract into the sources themselves: %q", f.target))
	f.target = filepath.Dir(f.source)
	f.refuse([]string{"--mirror"}, fmt.Sprintf("refusing --mirror: %q contains the sources and would lose them", f.target))
	wantTree(t, f.source, sources)
	f.outsideIsUntouched()
}

// Without --mirror a target around the sources is fine: an image may put them anywhere.
func TestTargetAroundTheSources(t *testing.T) {
	f := newFixture(t, tree{"x": "file:x"})
	f.target = filepath.Dir(f.source)
	f.succeed()
	wantTree(t, f.source, tree{"x": "file:x"})
	f.outsideIsUntouched()
}
