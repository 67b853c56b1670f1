// Kontext-extractor is the entrypoint of a Kontext image. It copies the sources in the image
// into the workspace.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	sourceDir    = "/var/run/kontext"
	manifestFile = "/var/lib/kontext/manifest.json"
)

const usage = `Usage: kontext-extractor [--mirror] [--verify] [--quiet] [DIR]

Copies the sources in this image into DIR (default: the working directory).
Files that are already right stay untouched.

  --mirror   then remove everything in DIR that the image does not have, but keep every .git
  --verify   then read DIR back and compare it with the image's manifest
  --quiet    print nothing on success
  --help     show this text
`

const (
	exitFailed = 1
	exitUsage  = 2
)

// maxShown is how many problems are printed. The rest is counted.
const maxShown = 10

type options struct {
	mirror, verify, quiet bool
	dir                   string
}

func main() {
	os.Exit(run(os.Args[1:], sourceDir, manifestFile, os.Stdout, os.Stderr))
}

func run(args []string, source, manifest string, stdout, stderr io.Writer) int {
	opts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "kontext: %v\n\n%s", err, usage)
		return exitUsage
	}

	// The mode of a directory must not depend on the umask of the container.
	defer syscall.Umask(syscall.Umask(0))

	summary, problems := work(opts, source, manifest)
	if len(problems) > 0 {
		printProblems(stderr, problems)
		return exitFailed
	}
	if !opts.quiet {
		fmt.Fprintf(stdout, "kontext: %s\n", summary)
	}
	return 0
}

// parse accepts options before and after DIR, as GNU tools do.
func parse(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&opts.mirror, "mirror", false, "")
	flags.BoolVar(&opts.verify, "verify", false, "")
	flags.BoolVar(&opts.quiet, "quiet", false, "")

	var dirs []string
	for {
		if err := flags.Parse(args); err != nil {
			return opts, err
		}
		if flags.NArg() == 0 {
			break
		}
		dirs = append(dirs, flags.Arg(0))
		args = flags.Args()[1:]
	}
	switch {
	case len(dirs) > 1:
		return opts, fmt.Errorf("expected at most one DIR, got %d: %q", len(dirs), dirs)
	case len(dirs) == 0:
		opts.dir = "."
	case dirs[0] == "":
		return opts, errors.New("DIR is empty")
	default:
		opts.dir = dirs[0]
	}
	return opts, nil
}

// work runs the steps that the options ask for. It stops after the first step that fails.
func work(opts options, source, manifest string) (summary string, problems []error) {
	// With an absolute path, every message names a file in full.
	dir, err := filepath.Abs(opts.dir)
	if err != nil {
		return "", []error{err}
	}
	var want listing
	if opts.verify {
		if want, err = readManifest(manifest); err != nil {
			return "", []error{err}
		}
	}
	t, err := openTrees(source, dir, opts.mirror)
	if err != nil {
		return "", []error{err}
	}
	defer t.close()

	p := newPool()
	interrupted, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()
	defer context.AfterFunc(interrupted, func() { p.fail(errors.New("interrupted")) })()

	written, unchanged := extract(p, t)
	summary = fmt.Sprintf("%s: %d written, %d already right", countFiles(written+unchanged), written, unchanged)
	if opts.mirror && !p.stopped() {
		summary += fmt.Sprintf(", %d removed", mirror(p, t))
	}
	if opts.verify && !p.stopped() {
		verify(p, t, want, opts.mirror)
		summary += ", verified"
	}
	return fmt.Sprintf("%s in %q", summary, dir), p.problems()
}

func countFiles(count int64) string {
	if count == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", count)
}

func printProblems(w io.Writer, problems []error) {
	lines := make([]string, len(problems))
	for i, err := range problems {
		lines[i] = err.Error()
	}
	slices.Sort(lines)
	shown := lines[:min(len(lines), maxShown)]
	fmt.Fprintf(w, "kontext: %s\n", strings.Join(shown, "\nkontext: "))
	if more := len(lines) - len(shown); more > 0 {
		fmt.Fprintf(w, "kontext: and %d more\n", more)
	}
}
