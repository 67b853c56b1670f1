package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A counted node is a directory of an imaginary tree. It counts the open directories.
type counted struct {
	path  string
	count *counter
}

type counter struct {
	mu        sync.Mutex
	now, most int
}

func (c counted) open(name string) (counted, error) {
	c.count.mu.Lock()
	defer c.count.mu.Unlock()
	if strings.HasSuffix(name, "locked") {
		return counted{}, errors.New("locked")
	}
	c.count.now++
	c.count.most = max(c.count.most, c.count.now)
	return counted{path.Join(c.path, name), c.count}, nil
}

func (c counted) close() {
	c.count.mu.Lock()
	defer c.count.mu.Unlock()
	c.count.now--
}

// In a deep and wide tree, fewer than 1024 files are open, at four per directory. None stays open.
func TestWalkKeepsFewOpen(t *testing.T) {
	const deep, wide = 100, 200
	p, c := newPool(), &counter{}
	// The maximum on any machine.
	p.workers = maxWorkers
	var mu sync.Mutex
	var visited []string
	walk(p, counted{".", c}, p.fail, func(here counted, whole string) (subdirs []string) {
		mu.Lock()
		defer mu.Unlock()
		if here.path != whole {
			t.Errorf("%q is %q", whole, here.path)
		}
		visited = append(visited, whole)
		switch depth := strings.Count(whole, "/"); {
		case whole == ".":
			for i := range wide {
				subdirs = append(subdirs, fmt.Sprint(i))
			}
		case depth < deep:
			subdirs = []string{"d"}
		}
		return subdirs
	})
	slices.Sort(visited)
	if len(slices.Compact(visited)) != 1+wide*(deep+1) {
		t.Errorf("%d directories visited", len(visited))
	}
	if most := (maxWorkers + 1) * (keptOpen + 1); c.most > most || 4*most+2*(maxWorkers+1) >= 1024 {
		t.Errorf("%d were open at once, %d may be", c.most, most)
	}
	if c.now != 0 || p.stopped() {
		t.Errorf("%d are still open; stopped: %v", c.now, p.stopped())
	}
}

func TestWalkClosesAllAfterFailure(t *testing.T) {
	for name, stop := range map[string]bool{"reported": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			p, c := newPool(), &counter{}
			handle := p.report
			if stop {
				handle = p.fail
			}
			walk(p, counted{".", c}, handle, func(_ counted, whole string) (subdirs []string) {
				if strings.Count(whole, "/") < 2*keptOpen {
					subdirs = []string{"locked", "d"}
				}
				return subdirs
			})
			if problems := p.problems(); c.now != 0 || len(problems) == 0 || problems[0].Error() != "locked" {
				t.Errorf("%d are still open; problems %v", c.now, problems)
			}
		})
	}
}
