package main

import (
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// A pool runs work in a bounded number of goroutines and collects the problems.
type pool struct {
	workers int64
	busy    atomic.Int64
	stop    atomic.Bool
	mu      sync.Mutex
	errs    []error
	hashers sync.Pool
}

const maxWorkers = 32

func newPool() *pool {
	// The work waits for disks more than for processors. The maximum keeps the program below
	// 1024 open files: a directory takes four, a copy two.
	return &pool{
		workers: int64(min(4*runtime.GOMAXPROCS(0), maxWorkers)),
		hashers: sync.Pool{New: func() any { return newHasher() }},
	}
}

// do calls f in an idle worker. If all workers are busy, it calls f itself, so that there is
// no queue and no deadlock.
func (p *pool) do(group *sync.WaitGroup, f func()) {
	if p.busy.Add(1) > p.workers {
		p.busy.Add(-1)
		f()
		return
	}
	group.Go(func() {
		defer p.busy.Add(-1)
		f()
	})
}

// A node is a directory, or the same directory in several trees.
type node[T any] interface {
	open(path string) (T, error)
	close()
}

// keptOpen is the number of levels whose directories stay open while the walk is inside them.
const keptOpen = 6

// walk visits the top of a tree and then, in any order, the subdirectories that each visit
// returns. It passes the error to fail if it cannot open one.
func walk[T node[T]](p *pool, top T, fail func(error), visit func(here T, path string) (subdirs []string)) {
	var group sync.WaitGroup
	// near is the closest open directory on the way. It is open until release is called. rest
	// is the path from there, whole is the path from the top.
	var descend func(near T, rest, whole string, depth int, release func())
	descend = func(near T, rest, whole string, depth int, release func()) {
		if p.stopped() {
			release()
			return
		}
		here, err := near.open(rest)
		if err != nil {
			fail(err)
			release()
			return
		}
		subdirs := visit(here, whole)
		last := release
		if depth < keptOpen {
			near, rest = here, "."
			last = func() {
				here.close()
				release()
			}
		} else {
			here.close()
		}
		var users atomic.Int64
		users.Store(int64(len(subdirs)) + 1)
		done := func() {
			if users.Add(-1) == 0 {
				last()
			}
		}
		for _, name := range subdirs {
			p.do(&group, func() { descend(near, path.Join(rest, name), path.Join(whole, name), depth+1, done) })
		}
		done()
	}
	descend(top, ".", ".", 0, func() {})
	group.Wait()
}

// fail records a problem and stops the start of new work.
func (p *pool) fail(err error) {
	p.stop.Store(true)
	p.report(err)
}

// report records a problem. Other work continues.
func (p *pool) report(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs = append(p.errs, err)
}

func (p *pool) stopped() bool { return p.stop.Load() }

func (p *pool) problems() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.errs)
}

// clean reports whether there is no problem so far.
func (p *pool) clean() bool { return len(p.problems()) == 0 }

func (p *pool) hasher() *hasher   { return p.hashers.Get().(*hasher) }
func (p *pool) release(h *hasher) { p.hashers.Put(h) }
