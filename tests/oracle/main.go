// Command oracle answers what BuildKit makes of a .dockerignore, with BuildKit's own libraries.
//
// It reads one JSON question after the other on stdin and answers each with a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log"
	"os"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

type question struct {
	Ignore string  // the text of the ignore file
	Tree   []entry // in the order of a walk: a directory, then what is below it
}

type entry struct {
	Path string
	Dir  bool
}

type answer struct {
	Error    string   `json:"error"`    // if not empty, the other two mean nothing
	Excluded []bool   `json:"excluded"` // each entry of the tree by itself, given its parents'
	Kept     []string `json:"kept"`     // what a build would receive, in the order of the walk
}

func main() {
	log.SetFlags(0)
	questions, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var q question
		switch err := questions.Decode(&q); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			log.Fatal(err)
		}
		a, err := ask(q)
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			log.Fatal(err)
		}
	}
}

func ask(q question) (answer, error) {
	patterns, err := ignorefile.ReadAll(strings.NewReader(q.Ignore))
	if err != nil {
		return answer{}, err
	}
	if err := compileAll(patterns); err != nil {
		return answer{}, err
	}
	excluded, err := verdicts(patterns, q.Tree)
	if err != nil {
		return answer{}, err
	}
	kept, err := walk(patterns, q.Tree)
	return answer{Excluded: excluded, Kept: kept}, err
}

// compileAll reports what patternmatcher would only notice once it needs the pattern.
func compileAll(patterns []string) error {
	for _, p := range patterns {
		// Something must be excluded before a "!" pattern is looked at.
		m, err := patternmatcher.New([]string{"**", p})
		if err == nil && !m.Exclusions() {
			m, err = patternmatcher.New([]string{p})
		}
		if err != nil {
			return err
		}
		if _, _, err := m.MatchesUsingParentResults("x", patternmatcher.MatchInfo{}); err != nil {
			return err
		}
	}
	return nil
}

func verdicts(patterns []string, tree []entry) ([]bool, error) {
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	excluded := make([]bool, len(tree))
	infos := map[string]patternmatcher.MatchInfo{}
	for i, e := range tree {
		excluded[i], infos[e.Path], err = m.MatchesUsingParentResults(e.Path, infos[path.Dir(e.Path)])
		if err != nil {
			return nil, err
		}
	}
	return excluded, nil
}

func walk(patterns []string, tree []entry) ([]string, error) {
	filtered, err := fsutil.NewFilterFS(memFS(tree), &fsutil.FilterOpt{ExcludePatterns: patterns})
	if err != nil {
		return nil, err
	}
	kept := []string{}
	err = filtered.Walk(context.Background(), "/", func(p string, _ fs.DirEntry, err error) error {
		kept = append(kept, p)
		return err
	})
	return kept, err
}

// memFS is a tree without contents.
type memFS []entry

func (tree memFS) Walk(_ context.Context, _ string, fn fs.WalkDirFunc) error {
	skipped := "/" // no path starts with it
	for _, e := range tree {
		if strings.HasPrefix(e.Path, skipped) {
			continue
		}
		stat := &types.Stat{Path: e.Path}
		if e.Dir {
			stat.Mode = uint32(fs.ModeDir)
		}
		err := fn(e.Path, &fsutil.DirEntryInfo{Stat: stat}, nil)
		if errors.Is(err, fs.SkipDir) && e.Dir {
			skipped = e.Path + "/"
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (memFS) Open(string) (io.ReadCloser, error) { return nil, fs.ErrNotExist }
