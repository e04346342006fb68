package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxSmall bounds the manifests and configs that a client keeps in memory, in bytes in total.
const maxSmall = 64 << 20

// Resolved is the image that a reference names, for one platform.
type Resolved struct {
	Ref       string        // normalized: docker.io/library/busybox:1.35
	Digest    digest.Digest // of the index if the reference names one, else of the manifest
	MediaType string        // of the document that Digest names
	Index     []byte        // the index as stored; nil if Digest is that of a manifest
	Manifest  Manifest      // the image for the platform
	Config    []byte        // its config
}

// Manifest is one image: its manifest, config and layers.
type Manifest struct {
	Raw    []byte
	Desc   ocispecs.Descriptor
	Layers []Layer // bottom first
	Config []byte
}

// Layer is one layer of a manifest.
type Layer struct {
	Digest    digest.Digest // of the blob
	Size      int64         // of the blob, in bytes
	DiffID    digest.Digest // of the uncompressed tar, from the config; not verified here
	MediaType string
	URLs      []string // where to find the blob if it is not in the registry
}

// Resolve returns the image that a reference names, for a platform. If the reference has a digest, the result has it
// and the tag is ignored. Errors are of type *Error.
func (c *Client) Resolve(ctx context.Context, ref string, p ocispecs.Platform) (Resolved, error) {
	i, err := parseImage(ref)
	if err != nil {
		return Resolved{}, err
	}
	var out Resolved
	err = c.pull(ctx, "resolve "+reference.FamiliarString(i.named), i, func(s *session) error {
		root, err := c.document(ctx, s, i.tagOrDigest())
		if err != nil {
			return err
		}
		m, err := c.find(ctx, s, root, platforms.Normalize(p))
		if err != nil {
			return err
		}
		out = Resolved{Ref: i.String(), Digest: root.digest, MediaType: root.mediaType, Manifest: *m, Config: m.Config}
		if root.isIndex {
			out.Index = root.raw
		}
		return nil
	})
	return out, err
}

// Fetch returns the manifest and config of a reference for a platform. Errors are of type *Error.
func (c *Client) Fetch(ctx context.Context, ref string, p ocispecs.Platform) (*Manifest, error) {
	resolved, err := c.Resolve(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	return &resolved.Manifest, nil
}

// pull calls use with the endpoints of an image until one succeeds. The endpoint that succeeded last is tried first.
func (c *Client) pull(ctx context.Context, what string, i image, use func(*session) error) error {
	places, err := c.places(i)
	if err != nil {
		return err
	}
	var failures []error
	for _, at := range places {
		s, err := c.session(ctx, at)
		if err == nil {
			err = use(s)
		}
		if err == nil {
			c.mu.Lock()
			c.served[i.named.Name()] = at.String()
			c.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		failures = append(failures, s.fail(what, i, err))
	}
	return combine(failures)
}

func (c *Client) places(i image) ([]endpoint, error) {
	places, err := c.pulls(i)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, at := range places {
		if at.String() == c.served[i.named.Name()] {
			first := append([]endpoint{at}, places[:k]...)
			return append(first, places[k+1:]...), nil
		}
	}
	return places, nil
}

// combine returns one error for all endpoints: that of the registry itself, with the reasons of the mirrors. The order
// of failures says nothing, because the endpoint that served last is tried first. Without an error of the registry, the
// last mirror's counts.
func combine(failures []error) error {
	last := failures[len(failures)-1]
	if len(failures) == 1 {
		return last
	}
	var own *Error
	var reasons []string
	for _, err := range failures {
		var one *Error
		if !errors.As(err, &one) {
			continue
		}
		reasons = append(reasons, one.Registry+": "+one.Reason)
		if own == nil || own.mirror {
			own = one
		}
	}
	if own == nil {
		return last
	}
	all := *own
	all.What, _, _ = strings.Cut(all.What, " from mirror ")
	all.Reason = "not found at any mirror: " + strings.Join(reasons, "; ")
	all.Cause = errors.Join(failures...)
	return &all
}

// document reads a manifest or index by tag or digest.
func (c *Client) document(ctx context.Context, s *session, tagOrDigest string) (*document, error) {
	if raw := c.remembered(digest.Digest(tagOrDigest)); raw != nil {
		return parseDocument(raw, "")
	}
	raw, kind, err := c.manifest(ctx, s, tagOrDigest)
	if err != nil {
		return nil, err
	}
	if strings.Contains(tagOrDigest, ":") {
		if got := digest.FromBytes(raw); !sameDigest(digest.Digest(tagOrDigest), raw) {
			return nil, contentf("digest mismatch: expected %s, got %s", tagOrDigest, got)
		}
	}
	d, err := parseDocument(raw, kind)
	if err != nil {
		return nil, err
	}
	if d.mediaTypeStated() {
		c.remember(d.digest, raw)
	}
	return d, nil
}

// manifest reads a manifest or index and its media type. An interrupted answer is retried.
func (c *Client) manifest(ctx context.Context, s *session, tagOrDigest string) (raw []byte, kind string, err error) {
	for n := 1; ; n++ {
		res, err := s.get(ctx, "manifests/"+tagOrDigest, accepted())
		if err != nil {
			return nil, "", err
		}
		raw, err := readAll(res.Body, maxManifest)
		res.Body.Close()
		if err == nil {
			return raw, res.Header.Get("Content-Type"), nil
		}
		var stall *stallError
		if !retryable(err) || n >= maxTries || errors.As(err, &stall) && n >= maxStalls {
			return nil, "", fmt.Errorf("manifest: %w", err)
		}
		if err := c.opt.Wait(ctx, c.opt.Backoff(n)); err != nil {
			return nil, "", err
		}
	}
}

// mediaTypeStated reports whether the text itself states its media type, so that it can be parsed without the header.
func (d *document) mediaTypeStated() bool {
	return d.manifest.MediaType == d.mediaType || d.index.MediaType == d.mediaType
}

// sameDigest compares with the digest's own algorithm.
func sameDigest(want digest.Digest, raw []byte) bool {
	return want.Validate() == nil && want.Algorithm().FromBytes(raw) == want
}

// find returns the image for a platform in a document.
func (c *Client) find(ctx context.Context, s *session, root *document, p ocispecs.Platform) (*Manifest, error) {
	if !root.isIndex {
		m, _, err := c.load(ctx, s, root)
		return m, err
	}
	tries := maxTried
	m, err := c.descend(ctx, s, root, p, maxNesting, &tries)
	if err == nil && m == nil {
		err = platformError(p, root.index)
	}
	return m, err
}

// descend returns the image for a platform in an index, or nil. tries counts down over the whole search.
func (c *Client) descend(ctx context.Context, s *session, at *document, p ocispecs.Platform, depth int,
	tries *int) (*Manifest, error) {
	for _, entry := range choose(at.index, p) {
		if depth == 0 || *tries == 0 {
			return nil, contentf("its index is nested deeper than %d levels, or says no platforms", maxNesting)
		}
		*tries--
		child, err := c.document(ctx, s, entry.Digest.String())
		if err != nil {
			return nil, err
		}
		if child.isIndex {
			m, err := c.descend(ctx, s, child, p, depth-1, tries)
			if err != nil || m != nil {
				return m, err
			}
			continue
		}
		m, has, err := c.load(ctx, s, child)
		if err != nil {
			return nil, err
		}
		if entry.Platform != nil || platforms.Only(p).Match(has) {
			m.Desc.Platform = entry.Platform
			return m, nil
		}
	}
	return nil, nil
}

// load reads the config of a manifest.
func (c *Client) load(ctx context.Context, s *session, d *document) (*Manifest, ocispecs.Platform, error) {
	config := c.remembered(d.manifest.Config.Digest)
	if config == nil {
		r := c.newBlob(ctx, []*session{s}, d.manifest.Config)
		defer r.Close()
		var err error
		if config, err = readAll(r, maxConfig); err != nil {
			return nil, ocispecs.Platform{}, fmt.Errorf("config: %w", err)
		}
		c.remember(d.manifest.Config.Digest, config)
	}
	layers, image, err := layersOf(d.manifest, config)
	if err != nil {
		return nil, ocispecs.Platform{}, err
	}
	c.saw(s.at, d.manifest.Layers)
	return &Manifest{
		Raw: d.raw, Config: config, Layers: layers,
		Desc: ocispecs.Descriptor{MediaType: d.mediaType, Digest: d.digest, Size: int64(len(d.raw))},
	}, platforms.Normalize(image.Platform), nil
}

func (c *Client) remembered(d digest.Digest) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.small[d]
}

// remember keeps verified content.
func (c *Client) remember(d digest.Digest, content []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.small[d] == nil && c.smallSum+len(content) <= maxSmall {
		c.small[d], c.smallSum = content, c.smallSum+len(content)
	}
}

// saw records where layers are, so that a push to the same registry can mount them.
func (c *Client) saw(at endpoint, layers []ocispecs.Descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range layers {
		if have := c.sources[l.Digest]; len(have) < 4 && !containsPlace(have, at) {
			c.sources[l.Digest] = append(have, at)
		}
	}
}

// sourcesOf returns the endpoints known to have a layer.
func (c *Client) sourcesOf(d v1.Hash) []endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sources[digest.Digest(d.String())])
}

func containsPlace(all []endpoint, at endpoint) bool {
	for _, e := range all {
		if e.String() == at.String() {
			return true
		}
	}
	return false
}

// get sends a GET request to the session's repository. A status other than 200 is an error.
func (s *session) get(ctx context.Context, path string, accept []string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url(path), nil)
	if err != nil {
		return nil, err
	}
	req.Header["Accept"] = []string{strings.Join(accept, ", ")}
	return answered(s.client.Do(req))
}

func (s *session) url(path string) string {
	u := url.URL{Scheme: s.repo.Scheme(), Host: s.at.host, Path: "/v2/" + s.repo.RepositoryStr() + "/" + path}
	return u.String()
}

// answered turns a status other than 200 and 206 into an error.
func answered(res *http.Response, err error) (*http.Response, error) {
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent {
		return res, nil
	}
	defer res.Body.Close()
	after, from := retryAfter(res), ""
	if res.Request != nil {
		from = res.Request.URL.Host // of the last request, after redirects
	}
	err = transport.CheckError(res, http.StatusOK)
	var answer *transport.Error
	if errors.As(err, &answer) {
		st := fromTransport(answer)
		st.after, st.from = after, from
		return nil, st
	}
	return nil, &statusError{status: res.StatusCode, after: after, from: from}
}

// readAll reads at most limit bytes. More is an error.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = contentf("content is larger than %d bytes", limit)
	}
	return raw, err
}

// isForeign reports whether a layer may be stored outside the registry.
func isForeign(d ocispecs.Descriptor) bool {
	return len(d.URLs) > 0 && !types.MediaType(d.MediaType).IsDistributable()
}
