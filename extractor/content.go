package main

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"syscall"
)

const bufferSize = 128 << 10

// A hasher computes the SHA-256 of a file, piece by piece.
type hasher struct {
	buf  [bufferSize]byte
	hash hash.Hash
}

func newHasher() *hasher { return &hasher{hash: sha256.New()} }

// readContent reads a file, passes each piece on, and then compares the content with the
// manifest. It does not read a file of another size.
func (p *pool) readContent(in file, have syscall.Stat_t, want item, pass func(piece []byte) error) error {
	if have.Size != want.size {
		return errContent
	}
	h := p.hasher()
	defer p.release(h)
	h.hash.Reset()
	for at := int64(0); at < want.size; at += bufferSize {
		piece := h.buf[:min(want.size-at, bufferSize)]
		if err := in.readAt(piece, at); err != nil {
			return err
		}
		h.hash.Write(piece)
		if err := pass(piece); err != nil {
			return err
		}
	}
	sum := h.hash.Sum(h.buf[:0])
	if string(hex.AppendEncode(sum, sum)[len(sum):]) != want.sha256 {
		return errContent
	}
	return nil
}

func (p *pool) checkContent(in file, have syscall.Stat_t, want item) error {
	return p.readContent(in, have, want, func([]byte) error { return nil })
}
