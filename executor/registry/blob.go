package registry

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

// maxForeignURLs bounds the URLs that are tried for a layer outside registries.
const maxForeignURLs = 4

// Blob opens a blob of the repository that ref is in. Its bytes come with at most desc.Size, the last read compares
// their digest with desc.Digest, and a transfer that breaks off goes on where it was. A negative size is not known.
// Errors, also those of Read, are of type *Error.
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

// checkedBlob gives the errors of a blob their place.
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

// blob is a download in progress. Its hash covers all bytes given out so far, whichever answers they came in.
type blob struct {
	c        *Client
	ctx      context.Context
	desc     ocispecs.Descriptor
	sessions []*session // where it may be had, at least one
	place    int        // which of them is asked
	body     io.ReadCloser
	verifier digest.Verifier
	at       int64 // bytes given out
	from     int64 // where the current answer begins
	tries    int   // answers that broke off with nothing new
	err      error // final
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
			return b.took(p[:n])
		}
		if err == io.EOF && (b.desc.Size < 0 || b.at == b.desc.Size) {
			b.err = b.finish()
			break
		}
		if err != nil {
			b.again(err)
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	return 0, b.err
}

func (b *blob) took(p []byte) (int, error) {
	if b.desc.Size >= 0 && b.at+int64(len(p)) > b.desc.Size {
		b.err = contentf("it is larger than the %d bytes that its manifest says", b.desc.Size)
		return 0, b.err
	}
	_, _ = b.verifier.Write(p)
	b.at += int64(len(p))
	return len(p), nil
}

// finish is io.EOF when the content is right.
func (b *blob) finish() error {
	if !b.verifier.Verified() {
		return contentf("its %d bytes do not have the digest %s", b.at, b.desc.Digest)
	}
	return io.EOF
}

// again prepares another answer after one that broke off, or sets the final error. Progress starts the count anew.
func (b *blob) again(err error) {
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
		b.err = fmt.Errorf("it broke off after %d of %d bytes: %w", b.at, b.desc.Size, err)
		return
	}
	if err := b.c.opt.Wait(b.ctx, b.c.opt.Backoff(b.tries)); err != nil {
		b.err = err
	}
}

// open asks for what is missing, at each place until one gives it, then at the layer's own URLs.
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
		if b.outside() {
			return nil
		}
	}
	return first
}

// outside tries the URLs that a layer's descriptor lists.
func (b *blob) outside() bool {
	for _, raw := range b.desc.URLs[:min(len(b.desc.URLs), maxForeignURLs)] {
		u, err := url.Parse(raw)
		if err == nil && u.Scheme == "https" && u.User == nil && b.ask(b.c.outside, raw) == nil {
			return true
		}
	}
	return false
}

// ask requests the bytes from b.at on; of a server that does not take a range, all of them.
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
	// It is the whole blob again; the hash of what was given out and what follows tells whether they belong together.
	if res.StatusCode == http.StatusPartialContent {
		b.close()
		return contentf("the registry was asked for the bytes from %d and sent others (%s)", b.at, clean(res.Header.Get("Content-Range")))
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
