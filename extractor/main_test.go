package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestUsage(t *testing.T) {
	tests := map[string]struct {
		args   []string
		stderr string
	}{
		"unknown option": {[]string{"--nope"}, "kontext: unknown option \"--nope\"\n\n" + usage},
		"value":          {[]string{"d", "--mirror=\x1b"}, "kontext: unknown option \"--mirror=\\x1b\"\n\n" + usage},
		"one dash":       {[]string{"-mirror"}, "kontext: unknown option \"-mirror\"\n\n" + usage},
		"two DIRs":       {[]string{"a", "b\x1b"}, "kontext: expected at most one DIR, got \"a\" and \"b\\x1b\"\n\n" + usage},
		"empty DIR":      {[]string{""}, "kontext: DIR is empty\n\n" + usage},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(test.args, image{}, &stdout, &stderr)
			if code != exitUsage || stdout.Len() > 0 || stderr.String() != test.stderr {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"-h"}, {"DIR", "--help"}} {
		var stdout, stderr bytes.Buffer
		if code := run(args, image{}, &stdout, &stderr); code != 0 || stdout.String() != usage || stderr.Len() > 0 {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, &stdout, &stderr)
		}
	}
}

func TestParse(t *testing.T) {
	tests := map[string]struct {
		args []string
		want options
	}{
		"no arguments":       {nil, options{dir: "."}},
		"all before DIR":     {[]string{"--mirror", "--verify", "--quiet", "d"}, options{mirror: true, verify: true, quiet: true, dir: "d"}},
		"option after DIR":   {[]string{"d", "--mirror"}, options{mirror: true, dir: "d"}},
		"DIR with a dash":    {[]string{"--verify", "--", "-d"}, options{verify: true, dir: "-d"}},
		"DIR like an option": {[]string{"--", "--mirror"}, options{dir: "--mirror"}},
		"DIR before --":      {[]string{"d", "--quiet", "--"}, options{quiet: true, dir: "d"}},
		"DIR of one dash":    {[]string{"-"}, options{dir: "-"}},
		"--help alone":       {[]string{"a", "b", "--help", "--nope"}, options{help: true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := parse(test.args); err != nil || got != test.want {
				t.Errorf("parse(%q) is %+v, %v", test.args, got, err)
			}
		})
	}
}

func TestDirDefaultsToWorkingDirectory(t *testing.T) {
	f := newFixture(t, tree{"f": "file:f"})
	t.Chdir(f.target)
	var stdout, stderr bytes.Buffer
	if code := run(nil, f.image, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	if want := fmt.Sprintf("kontext: 1 file: 1 written, 0 already right in %q\n", f.target); stdout.String() != want {
		t.Errorf("summary is %q", &stdout)
	}
	wantTree(t, f.target, tree{"f": "file:f"})
}

func TestQuiet(t *testing.T) {
	f := newFixture(t, tree{"f": "file:f"})
	if summary := f.succeed("--quiet", "--mirror", "--verify"); summary != "" {
		t.Errorf("stdout is %q", summary)
	}
}

func TestSummaryNamesEachStep(t *testing.T) {
	f := newFixture(t, parents(tree{"d/new": "file:new", "right": "file:right", "l": "link:right"}))
	plant(t, f.target, parents(tree{"right": "file:right", "gone/with/all": "file:gone"}))
	want := fmt.Sprintf("kontext: 3 files: 2 written, 1 already right, 1 removed, verified in %q\n", f.target)
	if summary := f.succeed("--mirror", "--verify"); summary != want {
		t.Errorf("summary is %q, want %q", summary, want)
	}
}

func TestProblemsAreSortedAndLimited(t *testing.T) {
	tests := map[string]struct{ count, lines int }{
		"one":    {1, 1},
		"ten":    {10, 10},
		"eleven": {11, 11},
		"many":   {500, 11},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var problems []error
			for i := test.count; i > 0; i-- {
				problems = append(problems, fmt.Errorf("problem %03d", i))
			}
			var out bytes.Buffer
			printProblems(&out, problems)
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			if len(lines) != test.lines || lines[0] != "kontext: problem 001" {
				t.Errorf("%d lines: %q", len(lines), lines)
			}
			if test.count > maxShown {
				if want := fmt.Sprintf("kontext: and %d more", test.count-maxShown); lines[maxShown] != want {
					t.Errorf("the last line is %q, want %q", lines[maxShown], want)
				}
			}
		})
	}
}

// A message contains the path once, and quoted.
func TestProblemText(t *testing.T) {
	const bad = "\x1b]0;pwned\a\n"
	_, missing := os.Lstat("/nowhere/" + bad)
	err := &problem{"write", "/w/" + bad, fmt.Errorf("outer %s: %w", bad, missing)}
	if want := `write "/w/\x1b]0;pwned\a\n": no such file or directory`; err.Error() != want {
		t.Errorf("text is %q, want %q", err, want)
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Error("errors.Is does not find the cause")
	}
}
