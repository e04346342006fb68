package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

const (
	maxTransfers = 4       // concurrent blob uploads
	maxRequests  = 8       // other concurrent requests
	reportEvery  = 1 << 18 // bytes between two progress reports of a blob
)

// connect opens a session with write access for each repository.
func (p *push) connect(ctx context.Context) error {
	return each(ctx, maxRequests, p.order, func(ctx context.Context, r *pushRepo) error {
		s, err := p.c.sessionFor(ctx, r.at, transport.PushScope, nil)
		r.session = s
		return s.fail("push to "+reference.FamiliarName(r.image.named), r.image, err)
	})
}

// compareTags finds tags that already name their image.
func (p *push) compareTags(ctx context.Context) error {
	return each(ctx, maxRequests, p.goals, func(ctx context.Context, g *pushGoal) error {
		if g.byDigest {
			return nil
		}
		same, err := g.top.repo.session.names(ctx, g.image.tag(), g.top.content)
		g.done = same
		return g.top.repo.session.fail("push "+reference.FamiliarString(g.image.named), g.image, err)
	})
}

// compareDigests finds images that exist under other names or without one.
func (p *push) compareDigests(ctx context.Context) error {
	var unknown []*pushTop
	for _, g := range p.goals {
		g.top.there = g.top.there || g.done
	}
	for _, g := range p.goals {
		if !g.top.there && !slices.Contains(unknown, g.top) {
			unknown = append(unknown, g.top)
		}
	}
	return each(ctx, maxRequests, unknown, func(ctx context.Context, t *pushTop) error {
		there, err := t.repo.session.names(ctx, t.content.digest.String(), t.content)
		t.there = there
		return t.repo.session.fail("push "+reference.FamiliarString(t.image.named), t.image, err)
	})
}

// names reports whether a tag or digest names a manifest. An unclear answer counts as no.
func (s *session) names(ctx context.Context, tagOrDigest string, m manifest) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url("manifests/"+tagOrDigest), nil)
	if err != nil {
		return false, err
	}
	req.Header["Accept"] = []string{strings.Join(accepted(), ", ")}
	res, err := s.client.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return res.Header.Get("Docker-Content-Digest") == m.digest.String() &&
			(res.ContentLength < 0 || res.ContentLength == int64(len(m.raw))), nil
	case http.StatusNotFound, http.StatusForbidden, http.StatusMethodNotAllowed:
		return false, nil // some registries hide what does not exist
	}
	_, err = answered(res, nil)
	return false, err
}

// blobs sends all blobs. The first repository of a registry receives the bytes; the others mount them from there.
func (p *push) blobs(ctx context.Context) error {
	p.planMounts()
	err := each(ctx, maxRequests, p.order, func(ctx context.Context, r *pushRepo) error {
		if len(r.content) == 0 {
			return nil
		}
		s := r.session
		var err error
		if len(r.sources) > 0 {
			s, err = p.c.sessionFor(ctx, r.at, transport.PushScope, r.sources)
		}
		if err == nil {
			r.pusher, err = remote.NewPusher(remote.WithTransport(s.authed),
				remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
				remote.WithRetryStatusCodes(), remote.WithRetryPredicate(func(error) bool { return false }))
		}
		return s.fail("push to "+reference.FamiliarName(r.image.named), r.image, err)
	})
	if err != nil {
		return err
	}
	return each(ctx, maxTransfers, p.layers, p.blob)
}

// planMounts collects the repositories to mount from, because a token lists what it may read.
func (p *push) planMounts() {
	for _, b := range p.layers {
		from := p.c.sourcesOf(b.digest)
		for _, r := range b.repos {
			if repo, ok := r.mountable(from); ok && !slices.Contains(r.sources, repo) {
				r.sources = append(r.sources, repo)
			}
			from = append([]endpoint{r.at}, from...)
		}
	}
	for _, r := range p.order {
		slices.SortFunc(r.sources, func(a, b name.Repository) int { return strings.Compare(a.String(), b.String()) })
	}
}

// mountable returns another repository of the same registry that has the blob.
func (r *pushRepo) mountable(from []endpoint) (name.Repository, bool) {
	for _, at := range from {
		if at.host != r.at.host || at.repo == r.at.repo {
			continue
		}
		if repo, err := name.NewRepository(at.String(), nameOptions(r.at)...); err == nil {
			return repo, true
		}
	}
	return name.Repository{}, false
}

func (p *push) blob(ctx context.Context, b *pushBlob) error {
	from := p.c.sourcesOf(b.digest)
	size, err := b.layer.Size()
	if err != nil {
		return fmt.Errorf("blob %s: %w", b.digest, err)
	}
	var content v1.Layer = &countedLayer{Layer: b.layer,
		report: func(sent int64) { p.progress(b.digest.String(), sent, size) }}
	for _, r := range b.repos {
		what := fmt.Sprintf("push blob %s to %s", b.digest, reference.FamiliarName(r.image.named))
		send := content
		if repo, ok := r.mountable(from); ok {
			send = &remote.MountableLayer{Layer: content, Reference: repo.Tag("latest")}
		}
		if err := p.c.attempt(ctx, func() error { return r.pusher.Upload(ctx, r.session.repo, send) }); err != nil {
			return r.session.fail(what, r.image, err)
		}
		from = append([]endpoint{r.at}, from...)
	}
	return nil
}

// countedLayer reports how many of its bytes have been read.
type countedLayer struct {
	v1.Layer
	report func(sent int64)
}

// Compressed implements v1.Layer. The layer is opened at the first Read. Each try of an upload has its own body, and
// an unread one must not hold one of the few slots for reading layers from another registry: the other uploads would
// wait forever.
func (l *countedLayer) Compressed() (io.ReadCloser, error) { return &countedBody{layer: l}, nil }

type countedBody struct {
	layer     *countedLayer
	mu        sync.Mutex    // Close may be called during open
	from      io.ReadCloser // nil until it is read
	closed    bool
	sent, out int64
}

func (b *countedBody) open() (io.Reader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, net.ErrClosed
	}
	if b.from == nil {
		from, err := b.layer.Layer.Compressed()
		if err != nil {
			return nil, err
		}
		b.from = from
	}
	return b.from, nil
}

// Close implements io.Closer.
func (b *countedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed = true; b.from == nil {
		return nil
	}
	return b.from.Close()
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	from, err := b.open()
	if err != nil {
		return 0, err
	}
	n, err := from.Read(p)
	b.sent += int64(n)
	if b.sent-b.out >= reportEvery || err != nil && b.sent > b.out {
		b.out = b.sent
		b.layer.report(b.sent)
	}
	return n, err
}

// manifests stores all manifests by digest, children first.
func (p *push) manifests(ctx context.Context) error {
	return each(ctx, maxRequests, p.order, func(ctx context.Context, r *pushRepo) error {
		for _, m := range r.content {
			if err := r.session.put(ctx, m.digest.String(), m); err != nil {
				return r.session.fail(fmt.Sprintf("push manifest %s to %s", m.digest,
					reference.FamiliarName(r.image.named)), r.image, err)
			}
		}
		return nil
	})
}

// tags moves the tags concurrently. If one fails, the error lists those that were moved.
func (p *push) tags(ctx context.Context) error {
	var mu sync.Mutex
	var moved []string
	err := each(ctx, maxRequests, p.goals, func(ctx context.Context, g *pushGoal) error {
		if g.done || g.byDigest {
			return nil
		}
		short, s := reference.FamiliarString(g.image.named), g.top.repo.session
		if err := s.put(ctx, g.image.tag(), g.top.content); err != nil {
			return s.fail("tag "+short, g.image, err)
		}
		mu.Lock()
		defer mu.Unlock()
		moved = append(moved, short)
		return nil
	})
	var e *Error
	if errors.As(err, &e) && len(moved) > 0 {
		slices.Sort(moved)
		e.Hint += "; tags already moved: " + strings.Join(moved, ", ")
	}
	return err
}

// put stores a manifest under a tag or digest. If the registry reports another digest, the content was damaged on the
// way, and put fails.
func (s *session) put(ctx context.Context, tagOrDigest string, m manifest) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, s.url("manifests/"+tagOrDigest), bytes.NewReader(m.raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", string(m.kind))
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted:
	default:
		_, err := answered(res, nil)
		return err
	}
	if got := res.Header.Get("Docker-Content-Digest"); got != "" && got != m.digest.String() {
		return contentf("sent manifest %s, but the registry received %s", m.digest, clean(got))
	}
	return nil
}

// attempt repeats an upload after a lost connection. The retrier has already repeated all other requests.
func (c *Client) attempt(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var stall *stallError
		if err == nil || n >= maxTries || !brokeOff(err) || ctx.Err() != nil || errors.As(err, &stall) &&
			n >= maxStalls {
			return err
		}
		if err := c.opt.Wait(ctx, c.opt.Backoff(n)); err != nil {
			return err
		}
	}
}

// brokeOff reports whether an upload failed in a way that allows to start it again.
func brokeOff(err error) bool {
	var (
		answer   *transport.Error
		transfer *url.Error
	)
	if errors.As(err, &answer) {
		lost := slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool {
			return d.Code == transport.BlobUploadUnknownErrorCode || d.Code == transport.BlobUploadInvalidErrorCode
		})
		return lost || answer.Request != nil && answer.Request.Method == http.MethodPatch && retryable(err)
	}
	return errors.As(err, &transfer) && transfer.Op == "Patch" && retryable(err)
}

// each calls f for all elements of a list, at most limit at once, until one fails.
func each[T any](ctx context.Context, limit int, list []T, f func(ctx context.Context, one T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(limit)
	for _, one := range list {
		group.Go(func() error { return f(ctx, one) })
	}
	return group.Wait()
}
