package main

import (
	"errors"
	"fmt"
	"path/filepath"
)

// A problem says what failed with which path.
type problem struct {
	verb, path string
	err        error
}

func failed(verb string, in interface{ Name() string }, name string, err error) error {
	return &problem{verb, filepath.Join(in.Name(), name), err}
}

// Error quotes the path: a file's name may hold anything, the terminal's escapes too.
func (p *problem) Error() string {
	return fmt.Sprintf("%s %q: %v", p.verb, p.path, innermost(p.err))
}

func (p *problem) Unwrap() error { return p.err }

// innermost drops what the os package wraps around an error, as that repeats the path unquoted.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
