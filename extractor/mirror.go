package main

import "sync/atomic"

// mirror removes from the target what the source does not have, and counts it:
// a whole directory is one thing.
func mirror(p *pool, t trees) int64 {
	var removed atomic.Int64
	p.walk(func(dir string) (below []string) {
		if p.stopped() {
			return nil
		}
		here, err := t.open(dir)
		if err != nil {
			p.fail(err)
			return nil
		}
		defer here.close()

		keep := map[string]bool{}
		for entry, err := range list(here.source) {
			if err != nil {
				p.fail(failed("list", here.source, ".", err))
				return nil
			}
			keep[entry.Name()] = true
			if entry.IsDir() {
				below = append(below, entry.Name())
			}
		}

		// Listed in full first: a listing may miss names while others are removed.
		var extra []string
		for entry, err := range list(here.target) {
			if err != nil {
				p.fail(failed("list", here.target, ".", err))
				return nil
			}
			if !keep[entry.Name()] {
				extra = append(extra, entry.Name())
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
