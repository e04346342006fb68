package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// minMoved is how many bytes of an answer must arrive within the stall time. Otherwise one byte now and then would
// keep a transfer alive forever.
const minMoved = 512

// watched is a transport that cancels a transfer in which almost nothing is sent or received for the time stall. The
// time between two reads of an answer by the caller does not count.
type watched struct {
	next  http.RoundTripper
	stall time.Duration
}

// RoundTrip implements http.RoundTripper.
func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(w.stall, func() { cancel(&stallError{w.stall}) })
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		upload := &watchedUpload{ReadCloser: req.Body, timer: timer, stall: w.stall}
		req.Body = upload
		defer upload.over.Store(true)
	}
	res, err := w.next.RoundTrip(req)
	timer.Stop()
	if err != nil {
		err = stalled(ctx, err)
		cancel(nil)
		return nil, err
	}
	res.Body = &watchedBody{body: res.Body, ctx: ctx, cancel: cancel, timer: timer, stall: w.stall, left: w.stall}
	return res, nil
}

// stalled returns the stallError if that is why the context ended, else err.
func stalled(ctx context.Context, err error) error {
	var stall *stallError
	if errors.As(context.Cause(ctx), &stall) {
		return stall
	}
	return err
}

// watchedUpload restarts the timer with each read of the request body. After the last one the registry gets four times
// as long: it stores the blob before it answers.
type watchedUpload struct {
	io.ReadCloser
	timer *time.Timer
	stall time.Duration
	over  atomic.Bool // the answer arrived, possibly before everything was sent
}

func (u *watchedUpload) Read(p []byte) (int, error) {
	if u.over.Load() {
		return u.ReadCloser.Read(p)
	}
	u.timer.Stop()
	n, err := u.ReadCloser.Read(p)
	limit := u.stall
	if err != nil {
		limit *= 4
	}
	if !u.over.Load() {
		u.timer.Reset(limit)
	}
	return n, err
}

type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
	left   time.Duration // remaining time for the next minMoved bytes
	moved  int
}

func (b *watchedBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.timer.Reset(max(b.left, 1))
	n, err := b.body.Read(p)
	b.timer.Stop()
	b.left -= time.Since(start)
	if b.moved += n; b.moved >= minMoved {
		b.left, b.moved = b.stall, 0
	}
	if err != nil && err != io.EOF {
		err = stalled(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}
