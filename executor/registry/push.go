package registry

// A push runs in stages over all images: connect, compare tags and digests, collect what is missing, blobs, manifests,
// tags (see pushstages.go).
//
// Invariants:
//   - Blobs first, names last. A tag moves only when everything of every image is there. In another order, a failure
//     could leave a tag without its content, or move some tags of a release only
//     (TestPushMovesNoTagWhenOneImageFails, TestPushOrder).
//   - A blob is mounted from another repository of the registry if possible, and uploaded once otherwise. Mounts need
//     a token with pull access to the source, so sources are planned before the upload sessions are opened
//     (TestPushMountsFromBase, TestMountsAskForTheirSources).
//   - An image counts as present only if the registry answers with its digest and size (TestPushIsNotFooled).

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// PushImage is an image to push under some names: Image, or Index if it has several manifests.
type PushImage struct {
	Refs     []string // normalized names
	Image    v1.Image
	Index    v1.ImageIndex
	ByDigest bool // no tag is moved
	Insecure bool // plain HTTP and unverified certificates are allowed
}

// Progress receives how many bytes of a blob have been sent. It may be called by several goroutines.
type Progress func(blob string, sent, size int64)

// Push sends images. A tag that already names its image, or a digest that exists, costs one request. Otherwise all
// blobs of all images are sent first, each once and only where it is missing. Then manifests are stored by digest, and
// tags move last. progress may be nil. Errors are of type *Error, except errors from reading an image's own content.
func (c *Client) Push(ctx context.Context, images []PushImage, progress Progress) error {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	p := &push{c: c, progress: progress, repos: map[string]*pushRepo{}, blobOf: map[v1.Hash]*pushBlob{}}
	for _, image := range images {
		if err := p.add(image); err != nil {
			return err
		}
	}
	for _, stage := range []func(context.Context) error{p.connect, p.compareTags, p.compareDigests, p.gather, p.blobs,
		p.manifests, p.tags} {
		if err := stage(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return nil
}

// push is the state of one call of Push.
type push struct {
	c        *Client
	progress Progress
	repos    map[string]*pushRepo
	order    []*pushRepo // by first use
	goals    []*pushGoal
	layers   []*pushBlob // blobs that may be missing, each digest once
	blobOf   map[v1.Hash]*pushBlob
}

// pushRepo is one target repository.
type pushRepo struct {
	at      endpoint
	image   image // one of its names, for messages
	session *session
	pusher  *remote.Pusher
	tops    map[v1.Hash]*pushTop // images and indexes to push, by digest
	content []manifest           // manifests to send, children first
	has     map[v1.Hash]bool     // digests in content or among the blobs
	sources []name.Repository    // from which blobs may be mounted
}

// pushTop is an image or index in one repository.
type pushTop struct {
	repo    *pushRepo
	image   image // one of its names
	push    PushImage
	content manifest
	there   bool // the repository has it, and so everything it refers to
}

// pushGoal is one requested name.
type pushGoal struct {
	top      *pushTop
	image    image
	byDigest bool // no tag moves
	done     bool // the tag already names the image
}

// pushBlob is a blob and the repositories that need it.
type pushBlob struct {
	digest v1.Hash
	layer  v1.Layer
	repos  []*pushRepo
}

// manifest is the bytes of a manifest or an index.
type manifest struct {
	raw    []byte
	kind   types.MediaType
	digest v1.Hash
}

// add adds the names of an image.
func (p *push) add(push PushImage) error {
	for _, ref := range push.Refs {
		i, err := parseImage(ref)
		if err != nil {
			return err
		}
		at, err := p.c.push(i)
		if err != nil {
			return err
		}
		at.insecure = at.insecure || push.Insecure && !at.plain && at.ca == ""
		content, err := push.top()
		if err != nil {
			return fmt.Errorf("read %s: %w", reference.FamiliarString(i.named), err)
		}
		repo := p.repos[at.String()]
		if repo == nil {
			repo = &pushRepo{at: at, image: i, tops: map[v1.Hash]*pushTop{}, has: map[v1.Hash]bool{}}
			p.repos[at.String()] = repo
			p.order = append(p.order, repo)
		}
		top := repo.tops[content.digest]
		if top == nil {
			top = &pushTop{repo: repo, image: i, push: push, content: content}
			repo.tops[content.digest] = top
		}
		p.goal(&pushGoal{top: top, image: i, byDigest: push.ByDigest || i.digest != ""})
	}
	return nil
}

// goal adds a goal. Of two goals for one tag the later replaces the earlier, since tags move concurrently.
func (p *push) goal(g *pushGoal) {
	p.goals = slices.DeleteFunc(p.goals, func(o *pushGoal) bool {
		return !g.byDigest && !o.byDigest && o.top.repo == g.top.repo && o.image.tag() == g.image.tag()
	})
	p.goals = append(p.goals, g)
}

// top returns the manifest that the names refer to.
func (p PushImage) top() (manifest, error) {
	switch {
	case p.Index != nil:
		return readManifest(p.Index)
	case p.Image != nil:
		return readManifest(p.Image)
	}
	return manifest{}, errors.New("nothing to push")
}

func readManifest(m interface {
	RawManifest() ([]byte, error)
	MediaType() (types.MediaType, error)
	Digest() (v1.Hash, error)
}) (manifest, error) {
	var out manifest
	var err error
	if out.raw, err = m.RawManifest(); err != nil {
		return out, err
	}
	if out.kind, err = m.MediaType(); err != nil {
		return out, err
	}
	out.digest, err = m.Digest()
	return out, err
}

// gather collects what must be sent for names that are not there yet.
func (p *push) gather(context.Context) error {
	for _, g := range p.goals {
		top := g.top
		if top.there || top.repo.has[top.content.digest] {
			continue
		}
		var err error
		if top.push.Index != nil {
			err = p.needIndex(top.repo, top.push.Index, maxNesting)
		} else {
			err = p.needImage(top.repo, top.push.Image)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", reference.FamiliarString(g.image.named), err)
		}
	}
	return nil
}

func (p *push) needIndex(repo *pushRepo, index v1.ImageIndex, depth int) error {
	if depth == 0 {
		return fmt.Errorf("indexes are nested deeper than %d", maxNesting)
	}
	children, err := partial.Manifests(index)
	if err != nil {
		return err
	}
	for _, child := range children {
		switch child := child.(type) {
		case v1.ImageIndex:
			err = p.needIndex(repo, child, depth-1)
		case v1.Image:
			err = p.needImage(repo, child)
		case v1.Layer:
			err = p.needBlob(repo, child)
		default:
			err = fmt.Errorf("an index cannot hold a %T", child)
		}
		if err != nil {
			return err
		}
	}
	return repo.needManifest(readManifest(index))
}

func (p *push) needImage(repo *pushRepo, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	config, err := partial.ConfigLayer(image)
	if err != nil {
		return err
	}
	for _, l := range append(slices.Clone(layers), config) {
		if err := p.needBlob(repo, l); err != nil {
			return err
		}
	}
	return repo.needManifest(readManifest(image))
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
	b := p.blobOf[digest]
	if b == nil {
		b = &pushBlob{digest: digest, layer: l}
		p.blobOf[digest] = b
		p.layers = append(p.layers, b)
	}
	b.repos = append(b.repos, repo)
	return nil
}

func (r *pushRepo) needManifest(m manifest, err error) error {
	if err == nil && !r.has[m.digest] {
		r.has[m.digest] = true
		r.content = append(r.content, m)
	}
	return err
}
