package executor

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/attest"
	"github.com/bakebuild/bake/planner"
)

// Kind is the kind of an output: its destination and its format.
type Kind string

// The kinds of output.
const (
	KindStore    Kind = "store"     // the local image store
	KindPush     Kind = "push"      // a registry
	KindLoad     Kind = "load"      // a Docker engine
	KindOCITar   Kind = "oci"       // an OCI layout in a tar
	KindOCIDir   Kind = "oci-dir"   // an OCI layout in a directory
	KindDocker   Kind = "docker"    // a tar that docker load reads, and an OCI layout too
	KindLocal    Kind = "local"     // files in a directory
	KindTar      Kind = "tar"       // files in a tar
	KindNothing  Kind = "cacheonly" // no output
	stdoutTarget      = "-"
)

// Output is one parsed output of a target.
type Output struct {
	Kind Kind
	// Dest is an absolute path, "-" for stdout, or "" for a kind without a path. For KindLoad it is a docker context.
	Dest  string
	Names []string // normalised image references
	// Encoding is how layers are encoded, and which times files have.
	Encoding LayerEncoding
	// Docker selects Docker media types instead of OCI ones.
	Docker   bool
	ByDigest bool // push without a tag
	Insecure bool // push over plain HTTP, or without a verified certificate, if that is all there is
	// Split reports whether the files of each platform go to a folder of their own; nil: only of several platforms.
	Split       *bool
	Annotations Annotations
	// AttestAsImage gives attestation manifests an image config. Otherwise they are artifacts whose subject is the
	// image.
	AttestAsImage bool
	// AttestationPrefix is the prefix of attestations that are written as files.
	AttestationPrefix string
	// Canonical adds a name with the digest to the local store.
	Canonical bool
	// Dangling adds the name Dangling@DIGEST to the local store.
	Dangling string
}

// isImage reports whether o writes an image and not files.
func (o Output) isImage() bool {
	return o.Kind != KindLocal && o.Kind != KindTar && o.Kind != KindNothing
}

// OutputError reports an invalid output of the project file. It is found before anything runs.
type OutputError struct {
	Target string
	Reason string
}

// Error implements error.
func (e *OutputError) Error() string { return fmt.Sprintf("target %s: output: %s", e.Target, e.Reason) }

// Outputs parses all outputs of one target, whose platforms are images. A target without outputs goes to the local
// store. Relative paths refer to dir.
func Outputs(images []*planner.Image, dir string) ([]Output, error) {
	first := images[0]
	attrs := first.Outputs
	if len(attrs) == 0 {
		attrs = []config.Attrs{{"type": string(KindStore)}}
	}
	out := make([]Output, 0, len(attrs))
	for _, a := range withStored(attrs) {
		o, err := parseOutput(a, first, dir)
		if err == nil {
			err = o.check(images)
		}
		if err != nil {
			return nil, &OutputError{Target: first.Target, Reason: err.Error()}
		}
		out = append(out, o)
	}
	return out, nil
}

// withStored adds the local store to type=image,push=true, which stores the image as well unless store=false, and to
// other outputs with store=true.
func withStored(attrs []config.Attrs) []config.Attrs {
	stored := slices.ContainsFunc(attrs, func(a config.Attrs) bool {
		return a["type"] == string(KindStore) || a["type"] == "image" && !isSet(a["push"])
	})
	var all []config.Attrs
	for _, a := range attrs {
		pushed := a["type"] == "image" && isSet(a["push"]) && a["store"] == "" ||
			a["type"] != string(KindStore) && isSet(a["store"])
		if pushed && !stored {
			local := maps.Clone(a)
			local["type"], local["push"], stored = "image", "false", true
			all = append(all, local)
		}
		all = append(all, a)
	}
	return all
}

func isSet(flag string) bool {
	on, err := strconv.ParseBool(flag)
	return err == nil && on
}

func parseOutput(a config.Attrs, img *planner.Image, dir string) (Output, error) {
	if err := checkAttrs(a); err != nil {
		return Output{}, err
	}
	p := attrParser{attrs: a}
	o := Output{
		Dest: a["dest"], ByDigest: p.flag("push-by-digest", false), Insecure: p.flag("registry.insecure", false),
	}
	if prefix := a["dangling-name-prefix"]; prefix != "" {
		n, err := reference.ParseNormalizedNamed(prefix)
		if err != nil || !reference.IsNameOnly(n) {
			return o, fmt.Errorf("dangling-name-prefix=%s: expected the name of an image without a tag", prefix)
		}
		o.Dangling = n.Name()
	}
	if p.flag("danging-name-empty-only", false) && (len(img.Tags) > 0 || a["name"] != "") {
		o.Dangling = ""
	}
	if _, ok := a["platform-split"]; ok {
		split := p.flag("platform-split", true)
		o.Split = &split
	}
	o.Encoding = LayerEncoding{
		Compression: a["compression"], Level: p.number("compression-level"), Force: p.flag("force-compression", false),
		KeepTimes: !p.flag("rewrite-timestamp", true), ClampTimes: p.flag("rewrite-timestamp", false),
		Epoch: p.epoch("source-date-epoch"),
	}
	if err := o.setKind(a, &p); err != nil {
		return o, err
	}
	o.Docker = !p.flag("oci-mediatypes", o.Kind != KindDocker && o.Kind != KindLoad)
	o.AttestAsImage, o.AttestationPrefix = !p.flag("oci-artifact", true), a["attestation-prefix"]
	o.Canonical = p.flag("name-canonical", false)
	if p.err != nil {
		return o, p.err
	}
	var err error
	if o.Names, err = imageNames(a, img, o.Kind); err != nil {
		return o, err
	}
	if o.Annotations, err = parseAnnotations(img.Annotations, a); err != nil {
		return o, err
	}
	if o.hasPath() && o.Dest != stdoutTarget {
		if o.Dest, err = absPath(dir, o.Dest); err != nil {
			return o, err
		}
	}
	return o, o.Encoding.validate(o.Docker)
}

// absPath returns an absolute path; a relative one refers to dir.
func absPath(dir, p string) (string, error) {
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	return filepath.Abs(p)
}

// hasPath reports whether the output has a destination path, or stdout.
func (o *Output) hasPath() bool {
	switch o.Kind {
	case KindOCITar, KindOCIDir, KindDocker, KindLocal, KindTar:
		return true
	}
	return false
}

// setKind sets the kind and completes the destination.
func (o *Output) setKind(a config.Attrs, p *attrParser) error {
	archive := func(file, folder Kind) Kind {
		if p.flag("tar", true) {
			return file
		}
		return folder
	}
	switch a["type"] {
	case string(KindStore):
		o.Kind = KindStore
	case "image":
		if o.Kind = KindStore; p.flag("push", false) {
			o.Kind = KindPush
		}
	case "registry":
		o.Kind = KindPush
		if !p.flag("push", true) {
			o.Kind = KindStore
		}
	case "oci":
		o.Kind = archive(KindOCITar, KindOCIDir)
	case "docker":
		if o.Kind = archive(KindDocker, KindOCIDir); o.Dest == "" && o.Kind == KindDocker {
			o.Kind, o.Dest = KindLoad, a["context"]
		}
	case "local":
		o.Kind = KindLocal
	case "tar":
		o.Kind = KindTar
	case "cacheonly":
		o.Kind = KindNothing
	case "":
		return fmt.Errorf("output has no type; add type=image, registry, oci, docker, local, tar or cacheonly")
	default:
		return fmt.Errorf("unknown type %q; use image, registry, oci, docker, local, tar or cacheonly", a["type"])
	}
	if o.Dest == "" && (o.Kind == KindOCIDir || o.Kind == KindLocal) {
		return fmt.Errorf("type=%s writes a directory; add dest=DIR", a["type"])
	}
	if o.Dest == stdoutTarget && (o.Kind == KindOCIDir || o.Kind == KindLocal) {
		return fmt.Errorf("type=%s writes a directory, which cannot go to stdout; use another dest", a["type"])
	}
	if o.Dest == "" && (o.Kind == KindOCITar || o.Kind == KindTar) {
		o.Dest = stdoutTarget
	}
	return nil
}

// check refuses combinations that cannot work.
func (o Output) check(images []*planner.Image) error {
	if err := o.checkAttestations(images); err != nil {
		return err
	}
	several := len(images) > 1 || images[0].MultiPlatform
	if several && (o.Kind == KindDocker || o.Kind == KindLoad) {
		return fmt.Errorf("type=docker supports a single platform, but this target has %d; "+
			"use type=oci, or build one platform",
			len(images))
	}
	if (o.Kind == KindDocker || o.Kind == KindLoad) && o.Annotations.hasIndex() {
		return fmt.Errorf("type=docker has no index for index annotations; use type=oci or a registry, " +
			"or annotate the manifest")
	}
	if o.Kind == KindPush && len(o.Names) == 0 {
		return fmt.Errorf("a push needs a tag; add tags to the target or name= to the output")
	}
	return nil
}

// checkAttestations refuses attestations that the output does not support, and invalid attributes of them.
func (o Output) checkAttestations(images []*planner.Image) error {
	if !slices.ContainsFunc(images, attest.Requested) {
		return nil
	}
	for _, image := range images {
		if err := attest.Check(image); err != nil {
			return err
		}
	}
	const without = "or build without attestations (--provenance=false --sbom=false)"
	switch {
	case o.Kind == KindDocker || o.Kind == KindLoad:
		return fmt.Errorf("type=docker does not support attestations; use type=oci or a registry, %s", without)
	case o.isImage() && o.Docker:
		return fmt.Errorf("attestations need oci-mediatypes=true; remove oci-mediatypes=false, %s", without)
	}
	return nil
}

// attrParser parses typed attributes and keeps the first error.
type attrParser struct {
	attrs config.Attrs
	err   error
}

func (p *attrParser) flag(name string, fallback bool) bool {
	v, ok := p.attrs[name]
	if !ok {
		return fallback
	}
	b, err := strconv.ParseBool(v)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s=%s: expected true or false", name, v)
	}
	return b
}

// epoch returns a time in seconds since 1970, or "".
func (p *attrParser) epoch(name string) string {
	v := p.attrs[name]
	if v == "" {
		return ""
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if (err != nil || n < 0 || n > maxEpoch) && p.err == nil {
		p.err = fmt.Errorf("%s=%s: expected seconds since 1970, such as 1700000000", name, v)
	}
	return strconv.FormatInt(n, 10)
}

func (p *attrParser) number(name string) int {
	v, ok := p.attrs[name]
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s=%s: expected a number", name, v)
	}
	return n
}

// byTarget groups images by target, in the order of their first appearance.
func byTarget(images []*planner.Image) [][]*planner.Image {
	var order []string
	groups := map[string][]*planner.Image{}
	for _, i := range images {
		if groups[i.Target] == nil {
			order = append(order, i.Target)
		}
		groups[i.Target] = append(groups[i.Target], i)
	}
	out := make([][]*planner.Image, 0, len(order))
	for _, t := range order {
		out = append(out, groups[t])
	}
	return out
}

// Encodings returns the layer encodings that the outputs of images need, by target, so that an engine can compress
// layers while other steps run. Outputs of files add none. It checks what Validate checks, since engines call it before
// anything runs.
func Encodings(images []*planner.Image, dir string) (map[string][]LayerEncoding, error) {
	all, err := allOutputs(images, dir)
	if err != nil {
		return nil, err
	}
	encodings := map[string][]LayerEncoding{}
	for _, t := range all {
		seen := map[LayerEncoding]bool{}
		for _, o := range t.outputs {
			if o.isImage() {
				seen[o.Encoding] = true
			}
		}
		encodings[t.target] = slices.SortedFunc(maps.Keys(seen), LayerEncoding.compare)
	}
	return encodings, nil
}
