package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"
)

// A tree maps each path to a spec: "dir", "fifo", "file:CONTENT", "exec:CONTENT" or "link:TARGET".
type tree map[string]string

// A fixture is the two paths of an image, a workspace, and a directory outside of all three.
type fixture struct {
	t *testing.T
	image
	target, outside string
}

func newFixture(t *testing.T, sources tree) *fixture {
	t.Helper()
	top := t.TempDir()
	// Some tests run the extractor as another user.
	for _, dir := range []string{filepath.Dir(top), top} {
		must(t, os.Chmod(dir, 0o755))
	}
	f := &fixture{
		t:       t,
		image:   image{source: filepath.Join(top, "source"), manifest: filepath.Join(top, "manifest.json")},
		target:  filepath.Join(top, "workspace"),
		outside: filepath.Join(top, "outside"),
	}
	for _, dir := range []string{f.source, f.target, f.outside} {
		must(t, os.Mkdir(dir, 0o755))
	}
	plant(t, f.source, sources)
	f.writeManifest(sources)
	plant(t, f.outside, tree{"precious": "file:precious", "d": "dir", "d/deep": "file:deep"})
	return f
}

// run runs the extractor on the fixture's workspace.
func (f *fixture) run(options ...string) (code int, stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	code = run(append(options, f.target), f.image, &out, &errs)
	return code, out.String(), errs.String()
}

// succeed runs the extractor and returns its summary.
func (f *fixture) succeed(options ...string) string {
	f.t.Helper()
	code, stdout, stderr := f.run(options...)
	if code != 0 || stderr != "" {
		f.t.Fatalf("exit code %d, stderr:\n%s", code, stderr)
	}
	return stdout
}

// refuse runs the extractor and checks that it fails with exactly these lines.
func (f *fixture) refuse(options []string, want ...string) {
	f.t.Helper()
	code, stdout, stderr := f.run(options...)
	if code != exitFailed || stdout != "" {
		f.t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	if text := "kontext: " + strings.Join(want, "\nkontext: ") + "\n"; stderr != text {
		f.t.Errorf("stderr is\n%swant\n%s", stderr, text)
	}
}

func (f *fixture) outsideIsUntouched() {
	f.t.Helper()
	wantTree(f.t, f.outside, tree{"precious": "file:precious", "d": "dir", "d/deep": "file:deep"})
}

func (f *fixture) writeManifest(sources tree) {
	f.t.Helper()
	data, err := json.Marshal(manifestOf(sources))
	must(f.t, err)
	must(f.t, os.WriteFile(f.manifest, data, 0o644))
}

func manifestOf(sources tree) map[string]any {
	files, links, executable, sizes := map[string]string{}, map[string]string{}, []string{}, []int{}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		what := sources[name]
		kind, content, _ := strings.Cut(what, ":")
		sum := sha256.Sum256([]byte(content))
		switch kind {
		case "dir":
			files[name] = ""
		case "link":
			links[name] = content
		case "exec":
			executable = append(executable, name)
			fallthrough
		case "file":
			files[name] = hex.EncodeToString(sum[:])
			sizes = append(sizes, len(content))
		}
	}
	return map[string]any{"version": 3, "files": files, "executable": executable, "links": links, "sizes": sizes, "later": nil}
}

// plant creates a tree in dir. The modes do not depend on the umask.
func plant(t *testing.T, dir string, what tree) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(what)) {
		file := filepath.Join(dir, name)
		kind, content, _ := strings.Cut(what[name], ":")
		if runtime.GOOS == "darwin" && !utf8.ValidString(name+content) {
			t.Skip("macOS allows only UTF-8 in names")
		}
		switch kind {
		case "dir":
			must(t, os.Mkdir(file, 0o755))
			must(t, os.Chmod(file, 0o755))
		case "fifo":
			must(t, syscall.Mkfifo(file, 0o644))
		case "link":
			must(t, os.Symlink(content, file))
		case "file", "exec":
			mode := fs.FileMode(0o644)
			if kind == "exec" {
				mode = 0o755
			}
			must(t, os.WriteFile(file, []byte(content), mode))
			must(t, os.Chmod(file, mode))
		default:
			t.Fatalf("%q: unknown kind %q", name, kind)
		}
	}
}

// harvest returns the tree in dir. For a mode that plant does not set, the spec is the mode.
func harvest(t *testing.T, dir string) tree {
	t.Helper()
	have := tree{}
	must(t, filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, info := strings.TrimPrefix(file, dir+"/"), must2(entry.Info())
		switch mode := info.Mode(); {
		case mode.IsDir() && mode.Perm() == 0o755:
			have[name] = "dir"
		case mode.Type() == fs.ModeNamedPipe:
			have[name] = "fifo"
		case mode.Type() == fs.ModeSymlink:
			have[name] = "link:" + must2(os.Readlink(file))
		case mode == 0o644:
			have[name] = "file:" + string(must2(os.ReadFile(file)))
		case mode == 0o755:
			have[name] = "exec:" + string(must2(os.ReadFile(file)))
		default:
			have[name] = mode.String()
		}
		return nil
	}))
	return have
}

func wantTree(t *testing.T, dir string, want tree) {
	t.Helper()
	have := harvest(t, dir)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] != want[name] {
			t.Errorf("%.80q is %.80q, want %.80q", name, have[name], want[name])
		}
		delete(have, name)
	}
	for name, what := range have {
		t.Errorf("%.80q is %.80q, want nothing", name, what)
	}
}

// underUmask sets the umask for the rest of the test.
func underUmask(t *testing.T, mask int) {
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

const (
	argsVariable = "KONTEXT_TEST_ARGS"
	otherUser    = 1000
)

// TestMain runs the test program as the extractor for a process of command.
func TestMain(m *testing.M) {
	if encoded, found := os.LookupEnv(argsVariable); found {
		var args []string
		if err := json.Unmarshal([]byte(encoded), &args); err != nil {
			panic(err)
		}
		os.Exit(run(args[2:], image{source: args[0], manifest: args[1]}, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// command returns the extractor as a separate process.
func (f *fixture) command(options ...string) *exec.Cmd {
	args := must2(json.Marshal(append([]string{f.source, f.manifest, f.target}, options...)))
	cmd := exec.Command(ownProgram())
	cmd.Dir = "/"
	cmd.Env = []string{argsVariable + "=" + string(args)}
	return cmd
}

// runAsUser runs the extractor as a user other than root.
func (f *fixture) runAsUser(options ...string) (code int, output string) {
	f.t.Helper()
	cmd := f.command(options...)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
	}
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		f.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// giveToUser makes the user of runAsUser the owner of a tree.
func giveToUser(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	must(t, filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(file, otherUser, otherUser))
	}))
}

// needRoot skips the test unless root runs it.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func inode(t *testing.T, file string) uint64 {
	t.Helper()
	return must2(os.Lstat(file)).Sys().(*syscall.Stat_t).Ino
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must2[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// parents adds the parent directories of all paths to a tree, and returns it.
func parents(what tree) tree {
	for name := range maps.Clone(what) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			what[dir] = "dir"
		}
	}
	return what
}

func manyFiles(count int) tree {
	what := tree{}
	for i := range count {
		what[fmt.Sprintf("d%d/s%d/f%d", i%7, i%13, i)] = fmt.Sprintf("file:content %d", i)
	}
	return parents(what)
}
