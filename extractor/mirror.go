package main

import (
	"io/fs"
	"sync/atomic"
)

// mirror removes from the target what the source does not have, and counts it:
// a whole directory is one thing.
func mirror(p *pool, t trees) int64 {
	var removed atomic.Int64
	walk(p, t, p.fail, func(here trees, _ string) (below []string) {
		keep := map[string]bool{}
		for entry, err := range here.source.list() {
			if err != nil {
				p.fail(failed("list", here.source, ".", err))
				return nil
			}
			keep[entry.name] = true
			if entry.kind == fs.ModeDir {
				below = append(below, entry.name)
			}
		}

		// Listed in full first: a listing may miss names while others are removed.
		var extra []string
		for entry, err := range here.target.list() {
			if err != nil {
				p.fail(failed("list", here.target, ".", err))
				return nil
			}
			if !keep[entry.name] {
				extra = append(extra, entry.name)
			}
		}
		for _, name := range extra {
			if p.stopped() {
				return nil
			}
			if err := here.target.RemoveAll(name); err != nil {
				p.fail(failed("remove", here.target, name, err))
				return nil
			}
			removed.Add(1)
		}
		return below
	})
	return removed.Load()
}
