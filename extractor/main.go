// Kontext-extractor is the entrypoint of a Kontext image. It copies the sources in the image
// into the workspace.
package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const usage = `Usage: kontext-extractor [--mirror] [--verify] [--quiet] [DIR]

Copies the sources in this image into DIR (default: the working directory).
Files that are already right stay untouched. A file is put into DIR only if
its content is that of the image's manifest.

  --mirror   then remove everything in DIR that the image does not have, but keep every .git
  --verify   then read DIR back and compare it with the image's manifest
  --quiet    print nothing on success
  --help     show this text

If the environment variable KONTEXT_MANIFEST is set, the manifest must have that digest.
`

const (
	exitFailed = 1
	exitUsage  = 2
)

// maxShown is how many problems are printed. The rest is counted.
const maxShown = 10

// An image is where its content is, and which digest its manifest must have, if any.
type image struct{ source, manifest, digest string }

type options struct {
	mirror, verify, quiet, help bool
	dir                         string
}

func main() {
	here := image{"/var/run/kontext", "/var/lib/kontext/manifest.json", os.Getenv(digestVariable)}
	os.Exit(run(os.Args[1:], here, os.Stdout, os.Stderr))
}

func run(args []string, from image, stdout, stderr io.Writer) int {
	opts, err := parse(args)
	if err != nil {
		io.WriteString(stderr, "kontext: "+err.Error()+"\n\n"+usage)
		return exitUsage
	}
	if opts.help {
		io.WriteString(stdout, usage)
		return 0
	}

	// The mode of a directory must not depend on the umask of the container.
	defer syscall.Umask(syscall.Umask(0))

	summary, problems := work(opts, from)
	if len(problems) > 0 {
		printProblems(stderr, problems)
		return exitFailed
	}
	if !opts.quiet {
		io.WriteString(stdout, "kontext: "+summary+"\n")
	}
	return 0
}

// parse accepts options before and after DIR, as GNU tools do.
func parse(args []string) (options, error) {
	var opts options
	var dirs []string
	for i, arg := range args {
		switch {
		case arg == "--mirror":
			opts.mirror = true
		case arg == "--verify":
			opts.verify = true
		case arg == "--quiet":
			opts.quiet = true
		case arg == "--help" || arg == "-h":
			return options{help: true}, nil
		case arg == "--":
			dirs = append(dirs, args[i+1:]...)
			return opts, opts.setDir(dirs)
		case strings.HasPrefix(arg, "-") && arg != "-":
			return opts, errors.New("unknown option " + strconv.Quote(arg))
		default:
			dirs = append(dirs, arg)
		}
	}
	return opts, opts.setDir(dirs)
}

func (opts *options) setDir(dirs []string) error {
	switch {
	case len(dirs) > 1:
		return errors.New("expected at most one DIR, got " + strconv.Quote(dirs[0]) + " and " + strconv.Quote(dirs[1]))
	case len(dirs) == 0:
		opts.dir = "."
	case dirs[0] == "":
		return errors.New("DIR is empty")
	default:
		opts.dir = dirs[0]
	}
	return nil
}

// work runs the steps that the options ask for. It stops after the first step that fails.
func work(opts options, from image) (summary string, problems []error) {
	// With an absolute path, every message names a file in full.
	dir, err := filepath.Abs(opts.dir)
	if err != nil {
		return "", []error{err}
	}
	p := newPool()
	want, err := readManifest(p, from.manifest, from.digest)
	if err != nil {
		return "", []error{err}
	}
	t, err := openTrees(from.source, dir, opts.mirror)
	if err != nil {
		return "", []error{err}
	}
	defer t.close()

	defer p.failOn(os.Interrupt, syscall.SIGTERM)()

	written, unchanged := extract(p, t, want)
	summary = countFiles(written+unchanged) + ": " + count(written) + " written, " + count(unchanged) + " already right"
	if opts.mirror && p.clean() {
		summary += ", " + count(mirror(p, t.target, want)) + " removed"
	}
	if opts.verify && p.clean() {
		verify(p, t.target, want, opts.mirror)
		summary += ", verified"
	}
	return summary + " in " + strconv.Quote(dir), p.problems()
}

// failOn lets a signal end the work, until the function that it returns is called.
func (p *pool) failOn(signals ...os.Signal) (restore func()) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, signals...)
	go func() {
		if _, received := <-interrupted; received {
			p.fail(errors.New("interrupted"))
		}
	}()
	return func() {
		signal.Stop(interrupted)
		close(interrupted)
	}
}

func countFiles(files int64) string {
	if files == 1 {
		return "1 file"
	}
	return count(files) + " files"
}

func count(number int64) string { return strconv.FormatInt(number, 10) }

func printProblems(w io.Writer, problems []error) {
	lines := make([]string, len(problems))
	for i, err := range problems {
		lines[i] = err.Error()
	}
	slices.Sort(lines)
	shown := lines[:min(len(lines), maxShown)]
	io.WriteString(w, "kontext: "+strings.Join(shown, "\nkontext: ")+"\n")
	if more := len(lines) - len(shown); more > 0 {
		io.WriteString(w, "kontext: and "+strconv.Itoa(more)+" more\n")
	}
}
