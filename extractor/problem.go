package main

import (
	"errors"
	"path/filepath"
	"strconv"
)

// A problem is a failed operation on a path.
type problem struct {
	verb, path string
	err        error
}

func failed(verb string, in interface{ Name() string }, name string, err error) error {
	return &problem{verb, filepath.Join(in.Name(), name), err}
}

// Error quotes the path: a file name can contain control sequences of the terminal.
func (p *problem) Error() string {
	return p.verb + " " + strconv.Quote(p.path) + ": " + innermost(p.err).Error()
}

func (p *problem) Unwrap() error { return p.err }

// innermost returns the cause of an error. The os package wraps it in the unquoted path.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
