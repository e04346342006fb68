package layers

import (
	"io"
	"sync"
)

const (
	aheadChunk = 64 << 10 // bytes
	aheadDepth = 4        // chunks that one stage holds
)

// readAhead reads its source in a separate goroutine, so that two stages of a pipeline overlap. It buffers at most
// aheadDepth chunks. The caller must call Close, which returns once the goroutine no longer uses the source.
type readAhead struct {
	full chan chunk
	free chan []byte
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup
	buf  []byte // of cur
	cur  []byte
	err  error
}

type chunk struct {
	data []byte
	err  error
}

func newReadAhead(src io.Reader) *readAhead {
	r := &readAhead{full: make(chan chunk, aheadDepth), free: make(chan []byte, aheadDepth), stop: make(chan struct{})}
	for range aheadDepth {
		r.free <- nil // run allocates on first use: a small stream needs one chunk
	}
	r.done.Go(func() { r.run(src) })
	return r
}

func (r *readAhead) run(src io.Reader) {
	defer close(r.full)
	for {
		var buf []byte
		select {
		case buf = <-r.free:
		case <-r.stop:
			return
		}
		if buf == nil {
			buf = make([]byte, aheadChunk)
		}
		n, err := io.ReadFull(src, buf)
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		select {
		case r.full <- chunk{buf[:n], err}:
		case <-r.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (r *readAhead) Read(p []byte) (int, error) {
	for len(r.cur) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.buf != nil {
			r.free <- r.buf
			r.buf = nil
		}
		c, ok := <-r.full
		if !ok {
			r.err = io.ErrClosedPipe
			return 0, r.err
		}
		r.cur, r.buf, r.err = c.data, c.data[:cap(c.data)], c.err
	}
	n := copy(p, r.cur)
	r.cur = r.cur[n:]
	return n, nil
}

// Close stops the goroutine, after a Read of the source that is in progress.
func (r *readAhead) Close() error {
	r.once.Do(func() { close(r.stop) })
	r.done.Wait()
	return nil
}
