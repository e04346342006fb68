package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// minMoved is how many bytes of an answer must come within the time of a stall, so that one byte now and then does not
// keep a transfer alive for ever.
const minMoved = 512

// watched is a transport that ends a transfer in which next to nothing moves for the time stall: neither of the request's
// body, nor of the answer. The time that the reader of an answer takes between two reads does not count.
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

// stalled is the stall when that is what ended the context.
func stalled(ctx context.Context, err error) error {
	var stall *stallError
	if errors.As(context.Cause(ctx), &stall) {
		return stall
	}
	return err
}

// watchedUpload starts the timer anew with each piece that is sent. After the last one a registry may take longer: it
// stores the blob before it answers.
type watchedUpload struct {
	io.ReadCloser
	timer *time.Timer
	stall time.Duration
	over  atomic.Bool // the answer came, perhaps before all was sent
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
	left   time.Duration // for the bytes that are wanted of minMoved
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
