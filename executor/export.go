package executor

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/planner"
)

// Built is one platform of one target, ready to be written.
type Built struct {
	Image *planner.Image
	// Layers returns the layers, bottom first, in the form asked for; nil stands for a step that changed nothing. It
	// may compress, and may be called by several goroutines, once for each form.
	Layers func(ctx context.Context, f LayerForm) ([]v1.Layer, error)
	// Files writes the merged file system as one tar without whiteouts, sorted, with times as f says.
	Files func(ctx context.Context, f LayerForm, w io.Writer) error
	// Tree writes the merged file system of an edge of the graph as one tar; nil where no attestation is asked for.
	Tree func(ctx context.Context, e planner.Edge, w io.Writer) error
	// Resolved is the commit of a git source or the digest of an http one, "" when it is not known; nil knows none.
	Resolved func(ctx context.Context, s *planner.Step) string
}

// ImageStore is the local store.
type ImageStore interface {
	// WriteBlob stores a blob unless the store has it already; open is called only if it is needed.
	WriteBlob(ctx context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error)) error
	// PutImages makes what was written durable and moves the names, all at once.
	PutImages(ctx context.Context, images []StoredImage) error
}

// StoredImage is a name of the local store.
type StoredImage struct {
	Name      string // docker.io/library/x:latest
	Target    string
	Digest    digest.Digest
	MediaType string
	Size      int64
}

// Pusher sends images to registries: blobs first, each once, tags last. progress hears of each blob that is sent, from
// several goroutines.
type Pusher interface {
	Push(ctx context.Context, images []PushImage, progress func(blob string, sent, size int64)) error
}

// PushImage is one thing to push: Image, or Index when it has several platforms.
type PushImage struct {
	Target   string
	Refs     []string // normalised names
	Image    v1.Image
	Index    v1.ImageIndex
	ByDigest bool // no tag is moved
}

// Loader loads a docker tar into an engine.
type Loader interface {
	Load(ctx context.Context, tar io.Reader) error
}

// ExportOptions says where outputs go.
type ExportOptions struct {
	Dir    string    // what relative destinations refer to
	Epoch  time.Time // for images that have none of their own; zero is DefaultEpoch
	Store  ImageStore
	Pusher Pusher
	// Docker connects to an engine by the name of a docker context, "" for the usual one; nil looks in the environment.
	Docker func(ctx context.Context, name string) (Loader, error)
	Stdout io.Writer // for outputs that go there; nil refuses them
	Events func(Event)
	// Started is when the build began, for its provenance.
	Started time.Time
}

// exportJobs is how many outputs are prepared at once.
const exportJobs = 4

// Export writes all outputs of all images, which have all been built. Every output is prepared first: blobs are
// stored, files are written under temporary names. Only when all are ready do tags move and files get their names:
// pushes first, since they may still fail, then engines, the local store, and renames last. When it fails before that,
// every earlier output is as it was.
func Export(ctx context.Context, built []Built, opt ExportOptions) ([]ImageResult, error) {
	e := &exporter{opt: opt, artifacts: map[string]*artifact{}, scans: map[*planner.Image][]document{}, invocation: rand.Text()}
	if e.opt.Epoch.IsZero() {
		e.opt.Epoch = DefaultEpoch()
	}
	if e.opt.Docker == nil {
		e.opt.Docker = DialDocker
	}
	images := make([]*planner.Image, len(built))
	for i, b := range built {
		images[i] = b.Image
	}
	if err := Validate(images, opt.Dir); err != nil {
		return nil, err
	}
	var results []ImageResult
	for _, group := range groupBuilt(built) {
		r, err := e.target(ctx, group)
		if err != nil {
			e.discard()
			return nil, err
		}
		results = append(results, r)
	}
	if err := e.run(ctx); err != nil {
		return nil, err
	}
	return results, nil
}

func groupBuilt(built []Built) [][]Built {
	byImage := map[*planner.Image]Built{}
	images := make([]*planner.Image, len(built))
	for i, b := range built {
		images[i] = b.Image
		byImage[b.Image] = b
	}
	var out [][]Built
	for _, g := range byTarget(images) {
		group := make([]Built, len(g))
		for i, img := range g {
			group[i] = byImage[img]
		}
		out = append(out, group)
	}
	return out
}

// exporter holds the outputs of one call of Export.
type exporter struct {
	opt        ExportOptions
	jobs       []*job
	artifacts  map[string]*artifact
	scans      map[*planner.Image][]document
	invocation string // names this build in provenances
	pushes     []PushImage
	stores     []StoredImage
}

// job is one output on its way. commit is what others can see; stage orders commits.
type job struct {
	name    string
	stage   int
	prepare func(ctx context.Context) error // may be nil
	commit  func(ctx context.Context) error // may be nil
	discard func()                          // undoes prepare; may be nil
}

const (
	stagePush = iota
	stageLoad
	stageStore
	stageFiles
)

// target makes the jobs of one target and says what the target came to.
func (e *exporter) target(ctx context.Context, group []Built) (ImageResult, error) {
	first := group[0].Image
	images := make([]*planner.Image, len(group))
	for i, b := range group {
		images[i] = b.Image
	}
	outs, err := Outputs(images, e.opt.Dir)
	if err != nil {
		return ImageResult{}, err
	}
	res := ImageResult{Target: first.Target}
	for _, o := range outs {
		if err := e.output(ctx, group, o, &res); err != nil {
			return res, fmt.Errorf("target %s: output %s: %w", first.Target, o.Kind, err)
		}
	}
	return res, nil
}

func (e *exporter) output(ctx context.Context, group []Built, o Output, res *ImageResult) error {
	switch o.Kind {
	case KindNothing:
		return nil
	case KindLocal:
		e.localFiles(group, o)
		return nil
	case KindTar:
		return e.tarFiles(group, o)
	}
	a, err := e.artifact(ctx, group, o)
	if err != nil {
		return err
	}
	if res.Digest == "" {
		if err := describe(res, group, a); err != nil {
			return err
		}
	}
	res.addTags(o.Names)
	target := group[0].Image.Target
	switch o.Kind {
	case KindStore:
		return e.store(target, o, a)
	case KindPush:
		p := PushImage{Target: target, Refs: o.Names, Index: a.index, ByDigest: o.ByDigest}
		if a.index == nil {
			p.Image = a.images[0]
		}
		e.pushes = append(e.pushes, p)
	case KindLoad:
		return e.load(target, o, a)
	case KindOCIDir:
		return e.layoutDir(target, o, a)
	case KindOCITar, KindDocker:
		return e.layoutTar(target, o, a)
	}
	return nil
}

func describe(res *ImageResult, group []Built, a *artifact) error {
	res.Digest, res.MediaType, res.Size = digest.Digest(a.desc.Digest.String()), string(a.desc.MediaType), a.desc.Size
	for i, img := range a.images {
		p, err := platformImage(group[i].Image, img)
		if err != nil {
			return err
		}
		res.Platforms = append(res.Platforms, p)
	}
	if a.index == nil {
		h, err := a.images[0].ConfigName()
		if err != nil {
			return err
		}
		res.ConfigDigest = digest.Digest(h.String())
	}
	return nil
}

func (r *ImageResult) addTags(names []string) {
	for _, n := range names {
		known := false
		for _, t := range r.Tags {
			known = known || t == n
		}
		if !known {
			r.Tags = append(r.Tags, n)
		}
	}
}

// artifact assembles the target's images in the output's form, once for equal forms.
func (e *exporter) artifact(ctx context.Context, group []Built, o Output) (*artifact, error) {
	key := fmt.Sprint(group[0].Image.Target, "\x00", o.Form, o.Docker, o.Annotations)
	attested := attests(group[0].Image)
	if attested {
		key += fmt.Sprint(o.Names, o.AttestAsImage) // attestations name what they are about
	}
	if a := e.artifacts[key]; a != nil {
		return a, nil
	}
	images := make([]v1.Image, len(group))
	platforms := make([]ocispecs.Platform, len(group))
	var created time.Time
	for i, b := range group {
		layers, err := b.Layers(ctx, o.Form)
		if err != nil {
			return nil, err
		}
		created = e.created(b)
		platforms[i] = b.Image.Platform
		images[i], err = Assemble(b.Image, layers, AssembleOptions{
			Epoch: created, Docker: o.Docker, Annotations: o.Annotations.at("manifest", &platforms[i]),
		})
		if err != nil {
			return nil, err
		}
	}
	var attestations []v1.Image
	for i, b := range group {
		if !attested {
			break
		}
		one, err := e.attest(ctx, b, images[i], o)
		if err != nil {
			return nil, err
		}
		attestations = append(attestations, one)
	}
	a, err := newArtifact(images, attestations, platforms, attested || len(group) > 1 || group[0].Image.MultiPlatform, o)
	if err != nil {
		return nil, err
	}
	a.created = created
	e.artifacts[key] = a
	return a, nil
}

// run prepares all jobs side by side, then commits them in the order of their stages.
func (e *exporter) run(ctx context.Context) error {
	defer e.discard()
	e.gather()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(exportJobs)
	for _, j := range e.jobs {
		if j.prepare != nil {
			g.Go(func() error { return e.step(j, func() error { return j.prepare(gctx) }) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for stage := stagePush; stage <= stageFiles; stage++ {
		for _, j := range e.jobs {
			if j.stage != stage || j.commit == nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			commit := func() error { return j.commit(ctx) }
			if j.prepare == nil {
				commit = func() error { return e.step(j, func() error { return j.commit(ctx) }) }
			}
			if err := commit(); err != nil {
				return err
			}
		}
	}
	return nil
}

// gather turns all pushes into one job, so that a blob shared by targets is sent once, and all names of the local store
// into one, so that they move together.
func (e *exporter) gather() {
	if len(e.pushes) > 0 {
		name := "push " + refs(e.pushes)
		e.jobs = append(e.jobs, &job{name: name, stage: stagePush, commit: func(ctx context.Context) error { return e.push(ctx, name) }})
	}
	if len(e.stores) > 0 {
		e.jobs = append(e.jobs, &job{name: "local store: name images", stage: stageStore, commit: func(ctx context.Context) error {
			return e.opt.Store.PutImages(ctx, e.stores)
		}})
	}
}

func refs(pushes []PushImage) string {
	n := 0
	for _, p := range pushes {
		n += len(p.Refs)
	}
	short, _ := familiar(pushes[0].Refs[0])
	if n == 1 {
		return short
	}
	return fmt.Sprintf("%s and %d more", short, n-1)
}

// step runs f as an activity that the events show.
func (e *exporter) step(j *job, f func() error) error {
	ev := Event{Name: j.name, Step: digest.FromString(j.name), Kind: KindStart, Time: time.Now()}
	e.event(ev)
	err := f()
	ev.Kind, ev.Time, ev.Err = KindDone, time.Now(), err
	e.event(ev)
	if err != nil {
		return fmt.Errorf("%s: %w", j.name, err)
	}
	return nil
}

func (e *exporter) event(ev Event) {
	if e.opt.Events != nil {
		e.opt.Events(ev)
	}
}

func (e *exporter) discard() {
	for _, j := range e.jobs {
		if j.discard != nil {
			j.discard()
		}
	}
}
