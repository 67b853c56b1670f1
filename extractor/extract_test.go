package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestExtractIntoEmptyWorkspace(t *testing.T) {
	name255 := strings.Repeat("n", 255)
	tests := map[string]tree{
		"nothing":                         {},
		"kinds":                           {"d": "dir", "d/e": "dir", "d/f": "file:f", "x": "exec:x", "l": "link:d/f", "empty": "file:"},
		"dangling link":                   {"l": "link:nowhere"},
		"absolute link":                   {"l": "link:/etc/passwd"},
		"escaping link":                   {"d": "dir", "d/l": "link:../../../outside"},
		"link to itself":                  {"l": "link:l"},
		"newline":                         {"a\nb": "file:1", "d\n": "dir", "d\n/\n": "file:2"},
		"backslash":                       {`a\b`: "file:1", `..\x`: "file:2"},
		"leading dash":                    {"-rf": "file:1", "--": "dir", "--/--help": "file:2"},
		"names with dots":                 {"...": "file:1", "..a": "dir", "..a/.b": "file:2", "a.": "file:3"},
		"names of white space":            {" ": "file:1", "\t": "dir", "\t/ x ": "file:2"},
		"longest names":                   {name255: "dir", name255 + "/" + name255: "file:1", name255 + "/" + name255[1:]: "link:" + name255},
		"longest link":                    {"l": "link:" + strings.Repeat("/x", longestLink/2)},
		"names with a meaning in a shell": {"*": "file:1", "$(x)": "file:2", "~": "dir"},
		"one buffer":                      {"f": "file:" + strings.Repeat("x", bufferSize)},
		"over one buffer":                 {"f": "file:" + strings.Repeat("x", bufferSize+1)},
		"several buffers":                 {"f": "exec:" + strings.Repeat("0123456", bufferSize)},
		"many files":                      manyFiles(2000),
	}
	for name, sources := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sources)
			files := int64(0)
			for _, what := range sources {
				if what != "dir" {
					files++
				}
			}
			if got, want := f.succeed(), fmt.Sprintf("kontext: %s: %d written, 0 already right in %q\n", countFiles(files), files, f.target); got != want {
				t.Errorf("summary is %q, want %q", got, want)
			}
			wantTree(t, f.target, sources)

			if got, want := f.succeed(), fmt.Sprintf("kontext: %s: 0 written, %d already right in %q\n", countFiles(files), files, f.target); got != want {
				t.Errorf("summary of the second run is %q, want %q", got, want)
			}
			wantTree(t, f.target, sources)
		})
	}
}

func TestExtractIntoUsedWorkspace(t *testing.T) {
	tests := map[string]struct{ sources, before, after tree }{
		"file for file":                    {tree{"x": "file:new"}, tree{"x": "file:old, longer"}, nil},
		"same size":                        {tree{"x": "file:text 1"}, tree{"x": "file:text 2"}, nil},
		"late difference":                  {tree{"x": "file:" + strings.Repeat("x", 2*bufferSize) + "1"}, tree{"x": "file:" + strings.Repeat("x", 2*bufferSize) + "2"}, nil},
		"executable for not executable":    {tree{"x": "exec:x"}, tree{"x": "file:x"}, nil},
		"not executable for executable":    {tree{"x": "file:x"}, tree{"x": "exec:x"}, nil},
		"file for directory":               {tree{"x": "file:x"}, parents(tree{"x/y/z": "file:z"}), nil},
		"file for empty directory":         {tree{"x": "file:x"}, tree{"x": "dir"}, nil},
		"file for link":                    {tree{"x": "file:x"}, tree{"x": "link:gone"}, nil},
		"file for fifo":                    {tree{"x": "file:x"}, tree{"x": "fifo"}, nil},
		"empty file for fifo":              {tree{"x": "file:"}, tree{"x": "fifo"}, nil},
		"directory for file":               {parents(tree{"x/y": "file:y"}), tree{"x": "file:x"}, nil},
		"directory for link":               {parents(tree{"x/y": "file:y"}), tree{"x": "link:gone"}, nil},
		"directory for fifo":               {parents(tree{"x/y": "file:y"}), tree{"x": "fifo"}, nil},
		"link for file":                    {tree{"x": "link:new"}, tree{"x": "file:old"}, nil},
		"link for link":                    {tree{"x": "link:new"}, tree{"x": "link:old"}, nil},
		"link for directory":               {tree{"x": "link:new"}, parents(tree{"x/y": "file:y"}), nil},
		"link for fifo":                    {tree{"x": "link:new"}, tree{"x": "fifo"}, nil},
		"file for a link to an equal file": {tree{"x": "file:x"}, tree{"x": "link:y", "y": "file:x"}, tree{"x": "file:x", "y": "file:x"}},
		"directory for a link to an equal directory": {
			parents(tree{"x/f": "file:x"}), parents(tree{"x": "link:y", "y/f": "file:y"}), parents(tree{"x/f": "file:x", "y/f": "file:y"}),
		},
		"entries that the image lacks": {tree{"x": "file:x"}, tree{"y": "file:y", "d": "dir", "d/l": "link:x"}, tree{"x": "file:x", "y": "file:y", "d": "dir", "d/l": "link:x"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.sources)
			plant(t, f.target, test.before)
			f.succeed()
			if test.after == nil {
				test.after = test.sources
			}
			wantTree(t, f.target, test.after)
		})
	}
}

func TestLinksInWorkspaceAreNotFollowed(t *testing.T) {
	sources := parents(tree{"d/deep": "file:ours", "precious": "exec:precious", "l": "link:ours"})
	tests := map[string]func(f *fixture) tree{
		"directory, absolute":          func(f *fixture) tree { return tree{"d": "link:" + f.outside + "/d"} },
		"directory, relative":          func(*fixture) tree { return tree{"d": "link:../outside/d"} },
		"file, other content":          func(f *fixture) tree { return tree{"precious": "link:" + f.outside + "/d/deep"} },
		"file, same content":           func(f *fixture) tree { return tree{"precious": "link:" + f.outside + "/precious"} },
		"file, link to a missing path": func(f *fixture) tree { return tree{"precious": "link:" + f.outside + "/new"} },
		"link":                         func(f *fixture) tree { return tree{"l": "link:" + f.outside} },
		"in a directory":               func(f *fixture) tree { return tree{"d": "dir", "d/deep": "link:" + f.outside + "/d/deep"} },
		"entry that the image lacks":   func(f *fixture) tree { return tree{"other": "link:" + f.outside} },
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sources)
			plant(t, f.target, before(f))
			f.succeed("--mirror", "--verify")
			f.outsideIsUntouched()
			wantTree(t, f.target, sources)
		})
	}
}

func TestOtherHardLinksDoNotChange(t *testing.T) {
	tests := map[string]string{"content": "exec:ours", "mode": "exec:precious"}
	for name, what := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{"x": what})
			must(t, os.Link(filepath.Join(f.outside, "precious"), filepath.Join(f.target, "x")))
			f.succeed()
			f.outsideIsUntouched()
			wantTree(t, f.target, tree{"x": what})
		})
	}
}

func TestUnchangedFileIsUntouched(t *testing.T) {
	sources := parents(tree{"d/f": "file:f", "x": "exec:x", "l": "link:d", "empty": "file:", "big": "file:" + strings.Repeat("big", bufferSize)})
	f := newFixture(t, sources)
	plant(t, f.target, sources)
	must(t, os.Chmod(filepath.Join(f.target, "d/f"), 0o600)) // a different mode with the same executable bit
	long := time.Unix(1e9, 0)
	before := map[string]uint64{}
	for name := range sources {
		before[name] = inode(t, filepath.Join(f.target, name))
		if name != "l" {
			must(t, os.Chtimes(filepath.Join(f.target, name), long, long))
		}
	}

	f.succeed("--mirror")

	for name := range sources {
		file := filepath.Join(f.target, name)
		if inode(t, file) != before[name] {
			t.Errorf("%q was replaced", name)
		}
		if info := must2(os.Lstat(file)); name != "l" && !info.ModTime().Equal(long) {
			t.Errorf("%q was touched at %v", name, info.ModTime())
		}
	}
	if mode := must2(os.Stat(filepath.Join(f.target, "d/f"))).Mode(); mode != 0o600 {
		t.Errorf("mode became %v", mode)
	}
}

func TestModeAloneIsFixedInPlace(t *testing.T) {
	f := newFixture(t, tree{"x": "exec:x"})
	plant(t, f.target, tree{"x": "file:x"})
	file := filepath.Join(f.target, "x")
	before := inode(t, file)
	f.succeed()
	if inode(t, file) != before {
		t.Error("the file was replaced")
	}
	wantTree(t, f.target, tree{"x": "exec:x"})
}

// A program that has the old file open continues to read the old content.
func TestChangedFileIsReplaced(t *testing.T) {
	f := newFixture(t, tree{"x": "file:new"})
	plant(t, f.target, tree{"x": "file:old"})
	reader := must2(os.Open(filepath.Join(f.target, "x")))
	defer reader.Close()
	f.succeed()
	var old bytes.Buffer
	must2(old.ReadFrom(reader))
	if old.String() != "old" {
		t.Errorf("the reader got %q", old.String())
	}
}

func TestModesDoNotDependOnUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("%04o", mask), func(t *testing.T) {
			sources := parents(tree{"d/e/f": "file:f", "x": "exec:x"})
			f := newFixture(t, sources)
			must(t, os.Remove(f.target))
			underUmask(t, mask)
			f.succeed()
			if after := syscall.Umask(mask); after != mask {
				t.Errorf("the umask was left at %04o", after)
			}
			wantTree(t, f.target, sources)
			if mode := must2(os.Stat(f.target)).Mode().Perm(); mode != 0o755 {
				t.Errorf("DIR was made %04o", mode)
			}
		})
	}
}

func TestDirectoryKeepsItsMode(t *testing.T) {
	f := newFixture(t, parents(tree{"d/f": "file:f"}))
	plant(t, f.target, tree{"d": "dir"})
	dir := filepath.Join(f.target, "d")
	must(t, os.Chmod(dir, 0o2770|os.ModeSetgid))
	f.succeed()
	if mode := must2(os.Stat(dir)).Mode(); mode != os.ModeDir|os.ModeSetgid|0o770 {
		t.Errorf("mode became %v", mode)
	}
}

// In a shared workspace, new directories belong to the group of the workspace.
func TestSetgidIsInherited(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux gives the bit to new directories")
	}
	f := newFixture(t, parents(tree{"d/e/f": "file:f"}))
	must(t, os.Chmod(f.target, 0o775|os.ModeSetgid))
	f.succeed()
	if mode := must2(os.Stat(filepath.Join(f.target, "d/e"))).Mode(); mode != os.ModeDir|os.ModeSetgid|0o755 {
		t.Errorf("mode is %v", mode)
	}
}

func TestDeepTree(t *testing.T) {
	tests := map[string]string{
		"many levels":                 strings.Repeat("d/", 300),
		"a path longer than PATH_MAX": strings.Repeat(strings.Repeat("d", 250)+"/", 20),
	}
	for name, deep := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{})
			src, dst := must2(os.OpenRoot(f.source)), must2(os.OpenRoot(f.target))
			defer src.Close()
			defer dst.Close()
			must(t, src.MkdirAll(deep, 0o755))
			must(t, src.WriteFile(deep+"f", []byte("deep"), 0o644))
			f.writeManifest(parents(tree{deep + "f": "file:deep"}))
			must(t, dst.MkdirAll(deep+"extra", 0o755))
			must(t, dst.MkdirAll("stale/"+deep+".git", 0o755))
			must(t, dst.MkdirAll("stale/"+deep+"extra", 0o755))
			f.succeed("--mirror")
			if got := must2(dst.ReadFile(deep + "f")); string(got) != "deep" {
				t.Errorf("content is %q", got)
			}
			for _, extra := range []string{deep + "extra", "stale/" + deep + "extra"} {
				if _, err := dst.Stat(extra); err == nil {
					t.Errorf("%.20q is not removed", extra)
				}
			}
			if _, err := dst.Stat("stale/" + deep + ".git"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnsupportedFileType(t *testing.T) {
	f := newFixture(t, tree{"pipe\x1b[31m": "fifo"})
	f.refuse(nil, fmt.Sprintf("copy %q: unsupported file type: expected a file, a directory or a link", f.source+"/pipe\x1b[31m"))
}

func TestNoNewWorkAfterFailure(t *testing.T) {
	f := newFixture(t, manyFiles(100))
	trees, err := openTrees(f.source, f.target, false)
	must(t, err)
	defer trees.close()
	p := newPool()
	p.fail(os.ErrInvalid)
	if written, unchanged := extract(p, trees, must2(readManifest(p, f.manifest, ""))); written+unchanged != 0 {
		t.Errorf("%d written, %d unchanged", written, unchanged)
	}
	wantTree(t, f.target, tree{})
}

func TestAsOrdinaryUser(t *testing.T) {
	sources := parents(tree{"d/e/f": "file:f", "x": "exec:x", "l": "link:/gone"})
	tests := map[string]struct {
		prepare func(t *testing.T, f *fixture)
		options []string
		after   tree
	}{
		"empty":          {func(*testing.T, *fixture) {}, []string{"--mirror", "--verify"}, sources},
		"missing target": {func(t *testing.T, f *fixture) { f.target += "/a/b" }, nil, sources},
		"unreadable file": {func(t *testing.T, f *fixture) {
			plant(t, f.target, tree{"x": "exec:x"})
			must(t, os.Chmod(f.target+"/x", 0))
		}, nil, sources},
		"directories without permissions for their owner": {func(t *testing.T, f *fixture) {
			plant(t, f.target, tree{"d": "dir", "d/e": "dir"})
			must(t, os.Chmod(f.target+"/d/e", 0o500))
			must(t, os.Chmod(f.target+"/d", 0))
		}, nil, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sources)
			top := f.target
			test.prepare(t, f)
			giveToUser(t, top)
			if code, output := f.runAsUser(test.options...); code != 0 {
				t.Fatalf("exit code %d: %s", code, output)
			}
			if test.after != nil {
				wantTree(t, f.target, test.after)
			} else if mode := must2(os.Stat(f.target + "/d")).Mode().Perm(); mode != 0o700 {
				t.Errorf("mode became %v", mode)
			}
		})
	}
}

func TestFileOfAnotherUser(t *testing.T) {
	needRoot(t)
	f := newFixture(t, tree{"x": "exec:x", "same": "file:same"})
	plant(t, f.target, tree{"x": "file:x", "same": "file:same"})
	must(t, os.Chown(f.target, otherUser, otherUser))
	same := inode(t, f.target+"/same")
	if code, output := f.runAsUser(); code != 0 {
		t.Fatalf("exit code %d: %s", code, output)
	}
	wantTree(t, f.target, tree{"x": "exec:x", "same": "file:same"})
	if owner := must2(os.Stat(f.target + "/x")).Sys().(*syscall.Stat_t).Uid; owner != otherUser {
		t.Errorf("the owner is %d", owner)
	}
	if inode(t, f.target+"/same") != same {
		t.Error("an unchanged file was replaced")
	}
}

func TestUnwritableTarget(t *testing.T) {
	f := newFixture(t, tree{"f": "file:f"})
	must(t, os.Chmod(f.target, 0o555))
	code, output := f.runAsUser()
	if want := fmt.Sprintf("kontext: write %q: permission denied\n", f.target+"/f"); code != exitFailed || !strings.HasPrefix(output, want) {
		t.Errorf("exit code %d: %s", code, output)
	}
	wantTree(t, f.target, tree{})
}

func TestReadOnlyFilesystem(t *testing.T) {
	f := newFixture(t, tree{"f": "file:f"})
	mountTmpfs(t, f.target, "ro")
	f.refuse(nil, fmt.Sprintf("write %q: read-only file system", f.target+"/f"))
}

func TestFullDisk(t *testing.T) {
	for name, size := range map[string]int{"small file": 100 << 10, "big file": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tree{"big\n": "file:" + strings.Repeat("x", size)})
			mountTmpfs(t, f.target, "size=64k")
			before := tree{"big\n": "file:old"}
			plant(t, f.target, before)
			f.refuse(nil, fmt.Sprintf("write %q: no space left on device", f.target+"/big\n"))
			wantTree(t, f.target, before)
		})
	}
	t.Run("many files", func(t *testing.T) {
		sources := manyFiles(500)
		f := newFixture(t, sources)
		mountTmpfs(t, f.target, "size=400k")
		code, _, stderr := f.run()
		if code != exitFailed || !strings.Contains(stderr, "no space left on device") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
		// Every file is complete, and there is no temporary file.
		for name, what := range harvest(t, f.target) {
			if sources[name] != what {
				t.Errorf("%q is %q", name, what)
			}
		}
	})
}

// A killed run leaves no incomplete file, except temporary ones. The next run completes it.
func TestKilled(t *testing.T) {
	sources := tree{}
	for i := range 20 {
		sources[fmt.Sprint(i)] = "file:" + strings.Repeat("0123456789abcdef", 256<<10)
	}
	f := newFixture(t, sources)
	cmd := f.command()
	must(t, cmd.Start())
	for len(must2(os.ReadDir(f.target))) == 0 {
		time.Sleep(time.Millisecond)
	}
	must(t, cmd.Process.Kill())
	if cmd.Wait() == nil {
		t.Error("the run ended before it was killed")
	}
	for name, what := range harvest(t, f.target) {
		if !strings.HasPrefix(name, ".kontext-") && what != sources[name] {
			t.Errorf("%q has %d bytes", name, len(what))
		}
	}
	f.succeed("--mirror")
	wantTree(t, f.target, sources)
}

func TestManyFilesOfEveryState(t *testing.T) {
	sources := manyFiles(1500)
	f := newFixture(t, sources)
	before, i := maps.Clone(sources), 0
	for name, what := range sources {
		switch i++; {
		case what == "dir":
		case i%4 == 0:
			delete(before, name)
		case i%4 == 1:
			before[name] = "file:other"
		case i%4 == 2:
			before[name] = "link:other"
		}
	}
	plant(t, f.target, before)
	f.succeed("--mirror", "--verify")
	wantTree(t, f.target, sources)
}

// An interrupted run says so. It leaves no temporary file.
func TestInterrupted(t *testing.T) {
	sources := tree{}
	for i := range 100 {
		sources[fmt.Sprint(i)] = "file:" + strings.Repeat("0123456789abcdef", 64<<10)
	}
	f := newFixture(t, sources)
	cmd := f.command()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	for len(must2(os.ReadDir(f.target))) == 0 {
		time.Sleep(time.Millisecond)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != exitFailed || stderr.String() != "kontext: interrupted\n" {
		t.Errorf("%v: %s", err, &stderr)
	}
	for name, what := range harvest(t, f.target) {
		if what != sources[name] {
			t.Errorf("%q has %d bytes", name, len(what))
		}
	}
}
