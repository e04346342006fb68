package planner

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// layout is an image or an index of images in an OCI image layout directory. Every blob that a plan uses is checked
// against its digest.
type layout struct {
	dir    string
	digest digest.Digest
	files  *files
}

// addLayout adds a named context that is an OCI layout.
func (p *plan) addLayout(t *config.Target, in *inputs, name string, source config.ContextSource) error {
	dir, err := p.findDir(t, "contexts", "OCI layout", source.Rest)
	if err != nil {
		return err
	}
	l := &layout{dir: dir.dir, digest: digest.Digest(source.Digest), files: &p.files}
	if source.Digest == "" {
		l.digest, err = l.find(source.Tag)
	} else {
		err = l.digest.Validate()
	}
	if err != nil {
		return p.targetError(t, "contexts", fmt.Errorf("OCI layout %s: %w", source.Rest, err))
	}
	store := fmt.Sprintf("layout-%d", len(in.layouts)) // a path is not a valid reference
	in.layouts[store] = dir
	in.client.layouts[store] = l
	in.client.opts.Opts["context:"+name] = "oci-layout://" + store + "@" + l.digest.String()
	return nil
}

// find returns the digest of a tag in the layout's index. Without a tag it returns the only image, or latest if there
// are several.
func (l *layout) find(tag string) (digest.Digest, error) {
	var index ocispecs.Index
	data, err := l.files.get(filepath.Join(l.dir, "index.json"))
	if err != nil {
		return "", fmt.Errorf("index.json: %w", cause(err))
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("index.json: %w", err)
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0].Digest, index.Manifests[0].Digest.Validate()
	}
	if tag == "" {
		tag = "latest"
	}
	for _, m := range index.Manifests {
		name := m.Annotations[ocispecs.AnnotationRefName]
		if name == tag || strings.HasSuffix(name, ":"+tag) {
			return m.Digest, m.Digest.Validate()
		}
	}
	return "", fmt.Errorf("no image with tag %s in its index.json", tag)
}

// config returns the image config for a platform.
func (l *layout) config(p ocispecs.Platform) ([]byte, error) {
	at := l.digest
	for range 4 { // an index may list indexes
		var m struct {
			Manifests []ocispecs.Descriptor `json:"manifests"`
			Config    ocispecs.Descriptor   `json:"config"`
		}
		if err := l.blobJSON(at, &m); err != nil {
			return nil, err
		}
		if len(m.Manifests) == 0 {
			return l.blob(m.Config.Digest)
		}
		next := digest.Digest("")
		match := platforms.Only(p)
		for _, d := range m.Manifests {
			if d.Platform == nil || match.Match(*d.Platform) {
				next = d.Digest
				break
			}
		}
		if next == "" {
			return nil, fmt.Errorf("no image for %s in %s", platforms.FormatAll(p), at)
		}
		at = next
	}
	return nil, errors.New("indexes are nested too deeply")
}

// blob returns a manifest or config after checking its digest.
func (l *layout) blob(d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	data, err := l.files.get(filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, cause(err))
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("blob %s is damaged: its content has a different digest", d)
	}
	return data, nil
}

// blobJSON decodes a blob.
func (l *layout) blobJSON(d digest.Digest, into any) error {
	data, err := l.blob(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}
