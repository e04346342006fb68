package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// maxTransfers bounds the blobs that are sent at once.
const maxTransfers = 4

// PushImage is one thing to push under some names: Image, or Index when it has several platforms.
type PushImage struct {
	Refs     []string // normalised names
	Image    v1.Image
	Index    v1.ImageIndex
	ByDigest bool // no tag is moved
}

// Push sends images. All blobs of all images go first, each once per repository and only where they are missing;
// blobs that another repository of the registry has are mounted. Manifests follow by their digests, and tags move last,
// when all else is there. Errors are of type *Error, but for those of reading an image's own content.
func (c *Client) Push(ctx context.Context, images []PushImage) error {
	p := &push{c: c, repos: map[string]*pushRepo{}}
	for _, image := range images {
		if err := p.add(image); err != nil {
			return err
		}
	}
	for _, stage := range []func(context.Context) error{p.connect, p.blobs, p.manifests, p.tags} {
		if err := stage(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return nil
}

// push is what one call of Push has to do.
type push struct {
	c     *Client
	repos map[string]*pushRepo
	order []*pushRepo // by first use
	names []pushName
	layer []pushBlob // each digest once
}

// pushRepo is one repository that is pushed to.
type pushRepo struct {
	at      endpoint
	image   image // a name that is pushed there, for messages
	session *session
	pusher  *remote.Pusher
	content []manifest // what is referred to before what refers to it
	has     map[v1.Hash]bool
}

// pushBlob is a blob and the repositories that need it.
type pushBlob struct {
	digest v1.Hash
	layer  v1.Layer
	repos  []*pushRepo
}

// pushName is a tag that moves.
type pushName struct {
	repo    *pushRepo
	image   image
	content manifest
}

// manifest is the bytes of a manifest or an index.
type manifest struct {
	raw    []byte
	kind   types.MediaType
	digest v1.Hash
}

// RawManifest implements remote.Taggable.
func (m manifest) RawManifest() ([]byte, error) { return m.raw, nil }

// MediaType is looked for by remote.
func (m manifest) MediaType() (types.MediaType, error) { return m.kind, nil }

func (p *push) add(push PushImage) error {
	for _, ref := range push.Refs {
		i, err := parseImage(ref)
		if err != nil {
			return err
		}
		at, err := p.c.opt.Config.push(i)
		if err != nil {
			return err
		}
		repo := p.repos[at.String()]
		if repo == nil {
			repo = &pushRepo{at: at, image: i, has: map[v1.Hash]bool{}}
			p.repos[at.String()] = repo
			p.order = append(p.order, repo)
		}
		top, err := p.need(repo, push)
		if err != nil {
			return fmt.Errorf("read %s: %w", reference.FamiliarString(i.named), err)
		}
		if !push.ByDigest && i.digest == "" {
			p.names = append(p.names, pushName{repo, i, top})
		}
	}
	return nil
}

// need notes all of an image or index for a repository, and returns its own manifest.
func (p *push) need(repo *pushRepo, push PushImage) (manifest, error) {
	if push.Index != nil {
		return p.needIndex(repo, push.Index, maxNesting)
	}
	if push.Image == nil {
		return manifest{}, errors.New("there is nothing to push")
	}
	return p.needImage(repo, push.Image)
}

func (p *push) needIndex(repo *pushRepo, index v1.ImageIndex, depth int) (manifest, error) {
	if depth == 0 {
		return manifest{}, fmt.Errorf("indexes are nested deeper than %d", maxNesting)
	}
	children, err := partial.Manifests(index)
	if err != nil {
		return manifest{}, err
	}
	for _, child := range children {
		switch child := child.(type) {
		case v1.ImageIndex:
			_, err = p.needIndex(repo, child, depth-1)
		case v1.Image:
			_, err = p.needImage(repo, child)
		case v1.Layer:
			err = p.needBlob(repo, child)
		default:
			err = fmt.Errorf("an index cannot hold a %T", child)
		}
		if err != nil {
			return manifest{}, err
		}
	}
	return repo.needManifest(index)
}

func (p *push) needImage(repo *pushRepo, image v1.Image) (manifest, error) {
	layers, err := image.Layers()
	if err != nil {
		return manifest{}, err
	}
	config, err := partial.ConfigLayer(image)
	if err != nil {
		return manifest{}, err
	}
	for _, l := range append(slices.Clone(layers), config) {
		if err := p.needBlob(repo, l); err != nil {
			return manifest{}, err
		}
	}
	return repo.needManifest(image)
}

func (p *push) needBlob(repo *pushRepo, l v1.Layer) error {
	kind, err := l.MediaType()
	if err != nil {
		return err
	}
	digest, err := l.Digest()
	if err != nil {
		return err
	}
	if repo.has[digest] || !kind.IsDistributable() {
		return nil
	}
	repo.has[digest] = true
	for k := range p.layer {
		if p.layer[k].digest == digest {
			p.layer[k].repos = append(p.layer[k].repos, repo)
			return nil
		}
	}
	p.layer = append(p.layer, pushBlob{digest, l, []*pushRepo{repo}})
	return nil
}

func (r *pushRepo) needManifest(m interface {
	RawManifest() ([]byte, error)
	MediaType() (types.MediaType, error)
	Digest() (v1.Hash, error)
}) (manifest, error) {
	raw, err := m.RawManifest()
	if err != nil {
		return manifest{}, err
	}
	kind, err := m.MediaType()
	if err != nil {
		return manifest{}, err
	}
	digest, err := m.Digest()
	if err != nil {
		return manifest{}, err
	}
	out := manifest{raw, kind, digest}
	if !r.has[digest] {
		r.has[digest] = true
		r.content = append(r.content, out)
	}
	return out, nil
}

// connect opens a session for each repository. The pusher asks for its own token, which may write.
func (p *push) connect(ctx context.Context) error {
	return p.each(ctx, len(p.order), func(ctx context.Context, k int) error {
		r := p.order[k]
		s, err := p.c.prepare(ctx, r.at)
		r.session = s
		if err == nil {
			r.pusher, err = remote.NewPusher(remote.WithTransport(s.transport), remote.WithAuth(s.auth),
				remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithRetryStatusCodes(),
				remote.WithRetryPredicate(func(error) bool { return false }))
		}
		return s.fail("push to "+reference.FamiliarName(r.image.named), r.image, err)
	})
}

// blobs sends all blobs. The first repository of a registry gets the bytes, the others mount them from there.
func (p *push) blobs(ctx context.Context) error {
	return p.each(ctx, len(p.layer), func(ctx context.Context, k int) error {
		b := p.layer[k]
		from := p.c.sourcesOf(b.digest)
		for _, r := range b.repos {
			what := fmt.Sprintf("push blob %s to %s", b.digest, reference.FamiliarName(r.image.named))
			err := p.c.attempt(ctx, func() error { return r.pusher.Upload(ctx, r.session.repo, mountable(b.layer, r, from)) })
			if err != nil {
				return r.session.fail(what, r.image, err)
			}
			from = append([]endpoint{r.at}, from...)
		}
		return nil
	})
}

// mountable is a layer that is mounted from another repository of the same registry when one is known to have it.
func mountable(l v1.Layer, to *pushRepo, from []endpoint) v1.Layer {
	for _, at := range from {
		if at.host != to.at.host || at.repo == to.at.repo {
			continue
		}
		repo, err := name.NewRepository(at.String(), nameOptions(to.at)...)
		if err != nil {
			continue
		}
		return &remote.MountableLayer{Layer: l, Reference: repo.Tag("latest")}
	}
	return l
}

// manifests sends all manifests by digest, in each repository children first.
func (p *push) manifests(ctx context.Context) error {
	return p.each(ctx, len(p.order), func(ctx context.Context, k int) error {
		r := p.order[k]
		for _, m := range r.content {
			what := fmt.Sprintf("push manifest %s to %s", m.digest, reference.FamiliarName(r.image.named))
			err := p.c.attempt(ctx, func() error { return r.pusher.Put(ctx, r.session.repo.Digest(m.digest.String()), m) })
			if err != nil {
				return r.session.fail(what, r.image, err)
			}
		}
		return nil
	})
}

// tags moves the tags, one after the other. When one cannot be moved the error says which were.
func (p *push) tags(ctx context.Context) error {
	var moved []string
	for _, n := range p.names {
		short := reference.FamiliarString(n.image.named)
		err := p.c.attempt(ctx, func() error { return n.repo.pusher.Put(ctx, n.repo.session.repo.Tag(n.image.tag()), n.content) })
		if err != nil {
			err = n.repo.session.fail("tag "+short, n.image, err)
			var e *Error
			if errors.As(err, &e) && len(moved) > 0 {
				e.Hint += "; these tags were moved before: " + strings.Join(moved, ", ")
			}
			return err
		}
		moved = append(moved, short)
	}
	return nil
}

// attempt repeats an upload that broke off; all other requests were repeated by the retrier already.
func (c *Client) attempt(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var stall *stallError
		if err == nil || n >= maxTries || !brokeOff(err) || ctx.Err() != nil || errors.As(err, &stall) && n >= maxStalls {
			return err
		}
		if err := wait(ctx, c.opt.Backoff(n)); err != nil {
			return err
		}
	}
}

// brokeOff says whether an error is of an upload that can be begun anew.
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

// each runs f for 0 to n-1, some at once, until one fails.
func (p *push) each(ctx context.Context, n int, f func(ctx context.Context, k int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxTransfers)
	for k := range n {
		group.Go(func() error { return f(ctx, k) })
	}
	return group.Wait()
}
