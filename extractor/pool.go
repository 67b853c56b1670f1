package main

import (
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// A pool spreads work over a bounded number of goroutines and gathers what goes wrong.
type pool struct {
	idle    chan struct{}
	stop    atomic.Bool
	mu      sync.Mutex
	errs    []error
	buffers sync.Pool
}

const (
	bufferSize = 128 << 10
	maxWorkers = 32
)

func newPool() *pool {
	// The work waits for disks more than for processors; the cap keeps it within 1024 open files,
	// at four for each directory and two for each copy.
	workers := min(4*runtime.GOMAXPROCS(0), maxWorkers)
	return &pool{
		idle:    make(chan struct{}, workers),
		buffers: sync.Pool{New: func() any { return new([bufferSize]byte) }},
	}
}

// do calls f on an idle worker, or right here if there is none: so nobody
// ever waits for a worker, and nothing queues up in memory.
func (p *pool) do(group *sync.WaitGroup, f func()) {
	select {
	case p.idle <- struct{}{}:
		group.Go(func() {
			defer func() { <-p.idle }()
			f()
		})
	default:
		f()
	}
}

// A place is one directory, or the same one in several trees.
type place[T any] interface {
	open(path string) (T, error)
	close()
}

// keptOpen is how deep directories stay open for those below them.
const keptOpen = 6

// walk visits the top of a tree and then, in any order, the directories that
// each visit returns. What cannot be opened goes to fail.
func walk[T place[T]](p *pool, top T, fail func(error), visit func(here T, path string) (below []string)) {
	var group sync.WaitGroup
	// near is the closest directory that is open still, until release is called; rest leads on from it.
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
		below := visit(here, whole)
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
		users.Store(int64(len(below)) + 1)
		done := func() {
			if users.Add(-1) == 0 {
				last()
			}
		}
		for _, name := range below {
			p.do(&group, func() { descend(near, path.Join(rest, name), path.Join(whole, name), depth+1, done) })
		}
		done()
	}
	descend(top, ".", ".", 0, func() {})
	group.Wait()
}

// fail records a problem and keeps new work from being started.
func (p *pool) fail(err error) {
	p.stop.Store(true)
	p.report(err)
}

// report records a problem that other work can go on beside.
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

func (p *pool) buffer() *[bufferSize]byte     { return p.buffers.Get().(*[bufferSize]byte) }
func (p *pool) release(buf *[bufferSize]byte) { p.buffers.Put(buf) }
