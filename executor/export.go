package executor

import (
	"context"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/bakebuild/bake/executor/attest"
	"github.com/bakebuild/bake/executor/docker"
	"github.com/bakebuild/bake/planner"
)

// Built is one platform of one target, ready to be written.
type Built struct {
	Image *planner.Image
	// Layers returns the layers in an encoding, bottom first; nil stands for a step that changed nothing. It may
	// compress. Several goroutines may call it, once for each encoding.
	Layers func(ctx context.Context, e LayerEncoding) ([]v1.Layer, error)
	// Files writes the merged file system as one sorted tar without whiteouts, with the times that enc selects.
	Files func(ctx context.Context, enc LayerEncoding, w io.Writer) error
	// Fetch fetches what an output reads, for outputs that cannot be written again, such as stdout. It may be nil.
	Fetch func(ctx context.Context, o Output) error
	// Tree writes the merged file system of an edge of the graph as one tar. It may be nil if no SBOM is requested.
	Tree func(ctx context.Context, e planner.Edge, w io.Writer) error
	// Resolved returns the commit of a git source or the digest of an http source, "" when it is unknown. It may be
	// nil.
	Resolved func(ctx context.Context, s *planner.Step) string
	// Claim returns the remote cache that claims the result of a step, "" if the step ran here. It may be nil.
	Claim func(s *planner.Step) string
}

// ImageStore is the local image store.
type ImageStore interface {
	// WriteBlob stores a blob. It calls open only if the store lacks the blob.
	WriteBlob(ctx context.Context, d digest.Digest, size int64, open func() (io.ReadCloser, error)) error
	// MoveImages makes the written blobs durable, then moves all names at once. It reports for each name whether it
	// referred to another image before, or to none.
	MoveImages(ctx context.Context, images []StoredImage) (moved []bool, err error)
}

// StoredImage is one name in the local store and the image it refers to.
type StoredImage struct {
	Name      string // docker.io/library/x:latest
	Target    string
	Digest    digest.Digest
	MediaType string
	Size      int64
}

// Pusher sends images to registries: blobs first, each once, tags last. Several goroutines call progress with the bytes
// sent of each blob.
type Pusher interface {
	Push(ctx context.Context, images []PushImage, progress func(blob string, sent, size int64)) error
}

// PushImage is one image to push: Image, or Index when it has several manifests.
type PushImage struct {
	Target   string
	Refs     []string // normalised names
	Image    v1.Image
	Index    v1.ImageIndex
	ByDigest bool // push without moving a tag
	Insecure bool // plain HTTP and unverified certificates are allowed
}

// Loader loads a docker tar into a Docker engine.
type Loader interface {
	Load(ctx context.Context, tar io.Reader) error
}

// ExportOptions holds the destinations of outputs.
type ExportOptions struct {
	Dir   string    // base of relative destinations
	Epoch time.Time // for images without their own; zero means DefaultEpoch
	Store ImageStore
	// Written remembers the directories that outputs wrote; nil forgets them.
	Written WrittenDirs
	Pusher  Pusher
	// Docker connects to the engine of a docker context, "" for the current one; nil means docker.Dial.
	Docker func(ctx context.Context, name string) (Loader, error)
	Stdout io.Writer // for outputs to stdout; nil refuses them
	Events func(Event)
	// Started is the start of the build, for its provenance.
	Started time.Time
}

// exportJobs bounds the outputs that are prepared at once.
const exportJobs = 4

// Export writes all outputs of images that have been built.
//
// Blobs first, names last: a build with several outputs must not leave some of them new and others old. So Export works
// in two phases. It prepares every output where no reader sees it: blobs are stored, files are written under temporary
// names, Docker engines are pinged. Only when every output is prepared does it commit, in the order of what can still
// fail: pushes, Docker engines, names of the local store, and renames of files last. The invariant is that an error of
// the first phase leaves every earlier output as it was; TestExportFailureLeavesOldOutputs shows it. An error while
// committing can leave a prefix of that order visible: registries have no transaction. The cost is temporary space for
// all files at once.
func Export(ctx context.Context, built []Built, opt ExportOptions) ([]ImageResult, error) {
	e := &exporter{opt: opt, artifacts: map[string]*artifact{}, attester: attest.New(opt.Started)}
	if e.opt.Epoch.IsZero() {
		e.opt.Epoch = DefaultEpoch()
	}
	if e.opt.Docker == nil {
		e.opt.Docker = func(ctx context.Context, name string) (Loader, error) { return docker.Dial(ctx, name) }
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
	e.markChanges(results)
	return results, nil
}

// markChanges sets Change of the results from what the names in the local store referred to before.
func (e *exporter) markChanges(results []ImageResult) {
	changes := map[string]Change{}
	for i, s := range e.stores {
		if e.moved[i] {
			changes[s.Target] = Changed
		} else if changes[s.Target] == ChangeUnknown {
			changes[s.Target] = Unchanged
		}
	}
	for i, r := range results {
		results[i].Change = changes[r.Target]
	}
}

// source returns what attestations of the image are made from.
func (b Built) source() attest.Source {
	return attest.Source{Image: b.Image, Tree: b.Tree, Resolved: b.Resolved, Claim: b.Claim}
}

// groupBuilt groups images by target.
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
	opt       ExportOptions
	jobs      []*job
	artifacts map[string]*artifact // by target and encoding, see artifact
	attester  *attest.Attester
	pushes    []PushImage
	stores    []StoredImage
	moved     []bool // of stores, once they have been named
}

// job writes one output. prepare must change nothing that others see; commit makes the output visible.
type job struct {
	name    string
	stage   int                             // orders commits
	prepare func(ctx context.Context) error // may be nil
	commit  func(ctx context.Context) error // may be nil
	discard func()                          // undoes prepare; may be nil
}

// The stages of commits, in their order.
const (
	stagePush = iota
	stageLoad
	stageStore
	stageFiles
)

// target adds the jobs of one target and returns its result.
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

// output adds the jobs of one output. The first image among the outputs is the one that res describes.
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
		p := PushImage{Target: target, Refs: o.Names, Index: a.index, ByDigest: o.ByDigest, Insecure: o.Insecure}
		if a.index == nil {
			p.Image = a.images[0]
		}
		e.pushes = append(e.pushes, p)
	case KindLoad:
		return e.load(target, o, a)
	case KindOCIDir:
		return e.layoutDir(target, o, a)
	case KindOCITar, KindDocker:
		return e.layoutTar(group, o, a)
	}
	return nil
}

// describe sets the digests and platforms of a result.
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

// artifact assembles the target's images as the output encodes them. Outputs with equal settings share one artifact.
func (e *exporter) artifact(ctx context.Context, group []Built, o Output) (*artifact, error) {
	key := fmt.Sprint(group[0].Image.Target, "\x00", o.Encoding, o.Docker, o.Annotations)
	attested := attest.Requested(group[0].Image)
	if attested {
		key += fmt.Sprint(o.Names, o.AttestAsImage) // attestations hold the names of their image
	}
	if a := e.artifacts[key]; a != nil {
		return a, nil
	}
	images := make([]v1.Image, len(group))
	platforms := make([]ocispecs.Platform, len(group))
	var created time.Time
	for i, b := range group {
		layers, err := b.Layers(ctx, o.Encoding)
		if err != nil {
			return nil, err
		}
		created = e.created(b, o)
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
		one, err := e.attester.Manifest(ctx, b.source(), images[i], attest.ManifestOptions{
			Names: o.Names, AsImage: o.AttestAsImage,
		})
		if err != nil {
			return nil, err
		}
		attestations = append(attestations, one)
	}
	several := attested || len(group) > 1 || group[0].Image.MultiPlatform || o.Annotations.hasIndex()
	a, err := newArtifact(images, attestations, platforms, several, o)
	if err != nil {
		return nil, err
	}
	a.created = created
	e.artifacts[key] = a
	return a, nil
}

// run prepares all jobs in parallel, then commits them in the order of their stages. It discards what was not
// committed.
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

// gather makes all pushes one job, so that a blob shared by targets is sent once. It makes all names of the local store
// one job, so that they move together.
func (e *exporter) gather() {
	if len(e.pushes) > 0 {
		name := "push " + refs(e.pushes)
		e.jobs = append(e.jobs, &job{name: name, stage: stagePush, commit: func(ctx context.Context) error {
			return e.push(ctx, name)
		}})
	}
	if len(e.stores) > 0 {
		e.jobs = append(e.jobs, &job{name: "local store: name images", stage: stageStore,
			commit: func(ctx context.Context) error {
				moved, err := e.opt.Store.MoveImages(ctx, e.stores)
				e.moved = moved
				return err
			}})
	}
}

// refs names pushes in the title of an activity.
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

// step runs f as an activity: events report its start and end.
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

// discard undoes what was prepared and not committed.
func (e *exporter) discard() {
	for _, j := range e.jobs {
		if j.discard != nil {
			j.discard()
		}
	}
}
