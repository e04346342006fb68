package registry

// A download continues after a lost connection. The next request asks for the missing bytes by range; if the server
// sends the whole blob instead, the bytes already read are skipped.
//
// Invariants:
//   - One hash covers all bytes returned to the caller, whichever answers they arrived in. The last Read compares it
//     with the descriptor's digest. Without it, answers of two different blobs could be joined unnoticed.
//   - Read never returns more bytes than the descriptor's size.
//   - An answer with new bytes resets the count of tries, so a large blob may take any number of requests, but a server
//     that sends nothing is asked at most maxTries times, and after a stall maxStalls times.
//
// TestBlobResumes, TestBlobFaults and TestStall show these rules.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxForeignURLs bounds how many URLs of a layer outside registries are tried.
const maxForeignURLs = 4

// Blob opens a blob of the repository of ref. Read returns at most desc.Size bytes and compares the digest at the end.
// A negative size means that it is unknown. Errors, including those of Read, are of type *Error.
func (c *Client) Blob(ctx context.Context, ref string, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	i, err := parseImage(ref)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("download blob %s of %s", desc.Digest, reference.FamiliarName(i.named))
	if err := desc.Digest.Validate(); err != nil {
		return nil, &Error{Ref: i.String(), What: what, Cause: err, Hint: "the manifest that names it is damaged"}
	}
	places, err := c.places(i)
	if err != nil {
		return nil, err
	}
	var sessions []*session
	var failures []error
	for _, at := range places {
		s, err := c.session(ctx, at)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			failures = append(failures, s.fail(what, i, err))
			continue
		}
		sessions = append(sessions, s)
	}
	if len(sessions) == 0 {
		return nil, combine(failures)
	}
	r := &checkedBlob{blob: c.newBlob(ctx, sessions, desc), what: what, image: i}
	if err := r.blob.open(); err != nil {
		return nil, r.fail(err)
	}
	return r, nil
}

// checkedBlob turns the errors of a blob into *Error.
type checkedBlob struct {
	*blob
	what  string
	image image
}

// Read implements io.Reader.
func (b *checkedBlob) Read(p []byte) (int, error) {
	n, err := b.blob.Read(p)
	if err != nil && err != io.EOF {
		err = b.fail(err)
	}
	return n, err
}

func (b *checkedBlob) fail(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	return b.sessions[b.place].fail(b.what, b.image, err)
}

// blob is a download in progress.
type blob struct {
	c        *Client
	ctx      context.Context
	desc     ocispecs.Descriptor
	sessions []*session // endpoints that may have it, at least one
	place    int        // index of the current one
	body     io.ReadCloser
	verifier digest.Verifier
	at       int64 // bytes returned to the caller
	from     int64 // value of at when the current answer began
	tries    int   // consecutive answers without new bytes
	err      error // final; io.EOF after success
}

func (c *Client) newBlob(ctx context.Context, sessions []*session, desc ocispecs.Descriptor) *blob {
	return &blob{c: c, ctx: ctx, desc: desc, sessions: sessions, verifier: desc.Digest.Verifier()}
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	for b.err == nil && len(p) > 0 {
		if b.body == nil {
			if b.err = b.open(); b.err != nil {
				break
			}
		}
		n, err := b.body.Read(p)
		if n > 0 {
			return b.accept(p[:n])
		}
		if err == io.EOF && (b.desc.Size < 0 || b.at == b.desc.Size) {
			b.err = b.finish()
			break
		}
		if err != nil {
			b.retry(err)
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	return 0, b.err
}

func (b *blob) accept(p []byte) (int, error) {
	if b.desc.Size >= 0 && b.at+int64(len(p)) > b.desc.Size {
		b.err = contentf("content is larger than the %d bytes stated in its manifest", b.desc.Size)
		return 0, b.err
	}
	_, _ = b.verifier.Write(p)
	b.at += int64(len(p))
	return len(p), nil
}

// finish returns io.EOF if the content has the right digest.
func (b *blob) finish() error {
	if !b.verifier.Verified() {
		return contentf("content of %d bytes does not match the digest %s", b.at, b.desc.Digest)
	}
	return io.EOF
}

// retry waits before another request after a failed answer, or sets the final error.
func (b *blob) retry(err error) {
	b.close()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if b.at > b.from {
		b.tries = 0
	}
	b.tries++
	var stall *stallError
	if !retryable(err) || b.tries >= maxTries || errors.As(err, &stall) && b.tries >= maxStalls {
		b.err = fmt.Errorf("connection lost after %d of %d bytes: %w", b.at, b.desc.Size, err)
		return
	}
	if err := b.c.opt.Wait(b.ctx, b.c.opt.Backoff(b.tries)); err != nil {
		b.err = err
	}
}

// open requests the missing bytes from each endpoint until one answers, then from the layer's own URLs.
func (b *blob) open() error {
	var first error
	for n := range b.sessions {
		place := (b.place + n) % len(b.sessions)
		s := b.sessions[place]
		err := b.ask(s.client, s.url("blobs/"+b.desc.Digest.String()))
		if err == nil {
			b.place = place
			return nil
		}
		if b.ctx.Err() != nil {
			return err
		}
		if first == nil {
			first = err
		}
	}
	if isForeign(b.desc) {
		if b.openURLs() {
			return nil
		}
	}
	return first
}

// openURLs tries the URLs in the layer's descriptor. It sends no credentials.
func (b *blob) openURLs() bool {
	for _, raw := range b.desc.URLs[:min(len(b.desc.URLs), maxForeignURLs)] {
		u, err := url.Parse(raw)
		if err == nil && u.Scheme == "https" && u.User == nil && b.ask(b.c.outside, raw) == nil {
			return true
		}
	}
	return false
}

// ask requests the bytes from b.at on. If the server ignores the range, ask skips the bytes before.
func (b *blob) ask(client *http.Client, address string) error {
	from := ""
	if b.at > 0 {
		from = fmt.Sprintf("bytes=%d-", b.at)
	}
	res, err := b.request(client, address, from)
	var refused *statusError
	if errors.As(err, &refused) && refused.status == http.StatusRequestedRangeNotSatisfiable && from != "" {
		res, err = b.request(client, address, "")
	}
	if err != nil {
		return err
	}
	b.body, b.from = res.Body, b.at
	if b.at == 0 || b.continues(res) {
		return nil
	}
	// The server sends the whole blob again. The hash detects if it differs from the bytes already returned.
	if res.StatusCode == http.StatusPartialContent {
		b.close()
		return contentf("the registry sent the wrong range: expected bytes from %d, got %s", b.at,
			clean(res.Header.Get("Content-Range")))
	}
	if _, err := io.CopyN(io.Discard, b.body, b.at); err != nil {
		b.close()
		return err
	}
	return nil
}

func (b *blob) request(client *http.Client, address, ranged string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if ranged != "" {
		req.Header.Set("Range", ranged)
	}
	return answered(client.Do(req))
}

func (b *blob) continues(res *http.Response) bool {
	return res.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.at))
}

func (b *blob) close() {
	if b.body != nil {
		b.body.Close()
		b.body = nil
	}
}

// Close implements io.Closer.
func (b *blob) Close() error {
	b.close()
	if b.err == nil {
		b.err = errors.New("the blob is closed")
	}
	return nil
}
