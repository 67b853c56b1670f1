package main

import (
	"io"
	"syscall"
)

// A file is the descriptor of an open file. An os.File would register each one with the
// poller, which has no use for regular files.
type file int

func (f file) stat() (st syscall.Stat_t, err error) {
	_, err = retry(func() (int, error) { return 0, syscall.Fstat(int(f), &st) })
	return st, err
}

// readAt fills the buffer.
func (f file) readAt(buf []byte, at int64) error {
	for len(buf) > 0 {
		n, err := retry(func() (int, error) { return syscall.Pread(int(f), buf, at) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		buf, at = buf[n:], at+int64(n)
	}
	return nil
}

func (f file) write(buf []byte) error {
	for len(buf) > 0 {
		n, err := retry(func() (int, error) { return syscall.Write(int(f), buf) })
		if err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

func (f file) close() error { return syscall.Close(int(f)) }

// retry repeats a call that a signal interrupts.
func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != syscall.EINTR {
			return n, err
		}
	}
}
