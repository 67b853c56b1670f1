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

const bufferSize = 128 << 10

func newPool() *pool {
	// The work waits for disks more than for processors; the cap keeps it within 1024 open files.
	workers := min(4*runtime.GOMAXPROCS(0), 64)
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

// walk visits the top of a tree and then, in any order, the directories that
// each visit returns.
func (p *pool) walk(visit func(dir string) (below []string)) {
	var group sync.WaitGroup
	var descend func(dir string)
	descend = func(dir string) {
		for _, name := range visit(dir) {
			p.do(&group, func() { descend(path.Join(dir, name)) })
		}
	}
	descend(".")
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
