package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// push pushes all images in one call, so that a blob shared by targets is sent once.
func (e *exporter) push(ctx context.Context, name string) error {
	if e.opt.Pusher == nil {
		return errors.New("no registry client")
	}
	return e.opt.Pusher.Push(ctx, e.pushes, func(blob string, sent, size int64) {
		e.event(Event{
			Time: time.Now(), Step: digest.FromString(name), Name: name, Kind: KindProgress,
			ID: blob, Current: sent, Total: size,
		})
	})
}

// maxBlobs bounds the blobs of an image that are written to the local store at once.
const maxBlobs = 4

// store writes blobs to the local store. The names move later, all in one job: see gather.
func (e *exporter) store(target string, o Output, a *artifact) error {
	if e.opt.Store == nil {
		return errors.New("no local store")
	}
	blobs, err := a.blobs()
	if err != nil {
		return err
	}
	write := func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(maxBlobs)
		for _, b := range blobs {
			d := digest.Digest(b.digest.String())
			g.Go(func() error { return e.opt.Store.WriteBlob(ctx, d, b.size, b.open) })
		}
		return g.Wait()
	}
	e.jobs = append(e.jobs, &job{name: "local store: " + target, stage: stageStore, prepare: write})
	for _, n := range o.storeNames(a.desc.Digest) {
		e.stores = append(e.stores, StoredImage{
			Name: n, Target: target, Digest: digest.Digest(a.desc.Digest.String()), MediaType: string(a.desc.MediaType),
			Size: a.desc.Size,
		})
	}
	return nil
}

// storeNames returns the names of an image in the local store; name-canonical adds each name with the digest, and
// dangling-name-prefix its own.
func (o Output) storeNames(d v1.Hash) []string {
	var all []string
	if o.Dangling != "" {
		all = append(all, o.Dangling+"@"+d.String())
	}
	for _, n := range o.Names {
		all = append(all, n)
		if o.Canonical && !strings.Contains(n, "@") {
			all = append(all, n+"@"+d.String())
		}
	}
	return all
}

// load sends a docker tar to a Docker engine. The connection is made while outputs are prepared, so that an engine that
// does not answer is found before anything is visible.
func (e *exporter) load(target string, o Output, a *artifact) error {
	l, err := newLayout(o, a, true)
	if err != nil {
		return err
	}
	var engine Loader
	e.jobs = append(e.jobs, &job{
		name: "load " + target + " into docker", stage: stageLoad,
		prepare: func(ctx context.Context) (err error) {
			engine, err = e.opt.Docker(ctx, o.Dest)
			return err
		},
		commit: func(ctx context.Context) error {
			r, w := io.Pipe()
			go func() { w.CloseWithError(l.writeTar(ctx, w)) }()
			defer r.Close()
			return engine.Load(ctx, r)
		},
	})
	return nil
}

// layoutTar writes an OCI layout as a tar to a file or stdout. For type=docker the tar also has a manifest.json.
func (e *exporter) layoutTar(group []Built, o Output, a *artifact) error {
	l, err := newLayout(o, a, o.Kind == KindDocker)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s: write %s tar", group[0].Image.Target, o.Kind)
	return e.fileJob(name, group, o, l.writeTar)
}

// layoutDir writes an OCI layout to a directory: blobs first, index.json last by rename. Existing entries stay.
func (e *exporter) layoutDir(target string, o Output, a *artifact) error {
	l, err := newLayout(o, a, false)
	if err != nil {
		return err
	}
	e.jobs = append(e.jobs, &job{
		name: target + ": write oci layout", stage: stageFiles,
		prepare: func(ctx context.Context) error { return l.writeBlobs(ctx, o.Dest) },
		commit:  func(context.Context) error { return l.writeIndex(o.Dest) },
	})
	return nil
}

// layout is an artifact as an OCI layout.
type layout struct {
	blobs  []blob
	index  []byte // index.json
	docker []byte // manifest.json, or nil
}

const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

func newLayout(o Output, a *artifact, docker bool) (*layout, error) {
	l := &layout{}
	var err error
	if l.blobs, err = a.blobs(); err != nil {
		return nil, err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: ocispecs.MediaTypeImageIndex,
		Manifests: layoutEntries(o.Names, a)}
	if l.index, err = json.Marshal(index); err != nil {
		return nil, err
	}
	if docker {
		l.docker, err = dockerManifest(o.Names, a.images[0])
	}
	return l, err
}

// layoutEntries returns one entry for each name, with the annotations in which containerd, docker and skopeo look for
// names.
func layoutEntries(names []string, a *artifact) []v1.Descriptor {
	entry := func() v1.Descriptor {
		d := a.desc
		d.Annotations = map[string]string{ocispecs.AnnotationCreated: a.created.UTC().Format(time.RFC3339)}
		for k, v := range a.desc.Annotations {
			d.Annotations[k] = v
		}
		return d
	}
	if len(names) == 0 {
		return []v1.Descriptor{entry()}
	}
	out := make([]v1.Descriptor, 0, len(names))
	for _, n := range names {
		d := entry()
		d.Annotations["io.containerd.image.name"] = n
		if _, tag := familiar(n); tag != "" {
			d.Annotations[ocispecs.AnnotationRefName] = tag
		}
		out = append(out, d)
	}
	return out
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// dockerManifest returns the manifest.json that docker load reads.
func dockerManifest(names []string, img v1.Image) ([]byte, error) {
	config, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	m := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobPath(config), RepoTags: []string{}, Layers: []string{}}
	for _, n := range names {
		short, _ := familiar(n)
		m.RepoTags = append(m.RepoTags, short)
	}
	man, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	for _, l := range man.Layers {
		m.Layers = append(m.Layers, blobPath(l.Digest))
	}
	return json.Marshal([]any{m})
}

// writeTar writes the layout as a tar. Equal layouts give equal bytes.
func (l *layout) writeTar(ctx context.Context, w io.Writer) error {
	t := newPlainTar(w)
	t.dir("blobs/")
	t.dir("blobs/sha256/")
	for _, b := range l.blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		t.blob(blobPath(b.digest), b)
	}
	t.bytes("index.json", l.index)
	if l.docker != nil {
		t.bytes("manifest.json", l.docker)
	}
	t.bytes("oci-layout", []byte(layoutVersion))
	return t.close()
}

// writeBlobs adds missing blobs to the layout in dir, each by rename.
func (l *layout) writeBlobs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	for _, b := range l.blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := filepath.Join(dir, filepath.FromSlash(blobPath(b.digest)))
		if fi, err := os.Lstat(p); err == nil && fi.Mode().IsRegular() && fi.Size() == b.size {
			continue
		}
		if err := writeWhole(p, b.copyTo); err != nil {
			return err
		}
	}
	return writeWhole(filepath.Join(dir, "oci-layout"), func(w io.Writer) error {
		_, err := io.WriteString(w, layoutVersion)
		return err
	})
}

// writeIndex adds the artifact to the layout's index.json. Entries with other names stay.
func (l *layout) writeIndex(dir string) error {
	p := filepath.Join(dir, "index.json")
	index := l.index
	old, err := os.ReadFile(p)
	if err == nil {
		index, err = mergeIndex(old, l.index)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return writeWhole(p, func(w io.Writer) error {
		_, err := w.Write(index)
		return err
	})
}

// mergeIndex adds the manifests of one index to an older one. They replace entries with the same name or, without a
// name, the same digest.
func mergeIndex(old, added []byte) ([]byte, error) {
	var before, merged v1.IndexManifest
	if err := json.NewDecoder(bytes.NewReader(old)).Decode(&before); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(added, &merged); err != nil {
		return nil, err
	}
	replaced := map[string]bool{}
	for _, d := range merged.Manifests {
		replaced[layoutName(d)] = true
	}
	var kept []v1.Descriptor
	for _, d := range before.Manifests {
		if !replaced[layoutName(d)] {
			kept = append(kept, d)
		}
	}
	merged.Manifests = append(kept, merged.Manifests...)
	merged.Annotations = before.Annotations
	return json.Marshal(merged)
}

// layoutName returns the name of an entry, or else its digest.
func layoutName(d v1.Descriptor) string {
	if n := d.Annotations["io.containerd.image.name"]; n != "" {
		return n
	}
	return d.Digest.String()
}
