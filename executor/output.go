package executor

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// Kind is where an output goes.
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
	KindNothing  Kind = "cacheonly" // nothing is written
	stdoutTarget      = "-"
)

// Output is one parsed output of a target.
type Output struct {
	Kind Kind
	// Dest is an absolute path, "-" for stdout, or "" where the kind has no path. Of KindLoad it is a docker context.
	Dest  string
	Names []string // normalised image references
	Form  LayerForm
	// Docker asks for Docker media types in place of OCI ones.
	Docker   bool
	ByDigest bool // push without a tag
	// Split puts each of several platforms into a folder of its own.
	Split       bool
	Annotations Annotations
	// AttestAsImage gives manifests of attestations the config of an image; without, they are artifacts about their image.
	AttestAsImage bool
	// AttestationPrefix is what names of attestations beside files begin with.
	AttestationPrefix string
	// Canonical names an image in the local store by its digest too.
	Canonical bool
}

// isImage says whether o writes an image and not files.
func (o Output) isImage() bool {
	return o.Kind != KindLocal && o.Kind != KindTar && o.Kind != KindNothing
}

// OutputError says what is wrong with an output as it was written. It is found before anything runs.
type OutputError struct {
	Target string
	Reason string
}

// Error implements error.
func (e *OutputError) Error() string { return fmt.Sprintf("target %s: output: %s", e.Target, e.Reason) }

// knownAttrs are the attributes that any output may have; those without a use here are accepted as Docker does.
func knownAttrs() []string {
	return []string{
		"type", "dest", "name", "push", "push-by-digest", "name-canonical", "oci-mediatypes", "compression",
		"compression-level", "force-compression", "rewrite-timestamp", "tar", "platform-split", "context", "unpack",
		"store", "dangling-name-prefix", "registry.insecure", "attestation-inline", "attestation-prefix", "buildinfo",
		"prefer-nondist-layers", "oci-artifact", "source-date-epoch", "force-inline-attestations",
	}
}

// Outputs parses all outputs of one target; one without any goes to the local store. dir is what relative paths refer
// to. images are the platforms of the target.
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

// withStored adds what type=image,push=true means besides the push: unless store=false, the image is in the local store too.
func withStored(attrs []config.Attrs) []config.Attrs {
	stored := slices.ContainsFunc(attrs, func(a config.Attrs) bool {
		return a["type"] == string(KindStore) || a["type"] == "image" && !isSet(a["push"])
	})
	var all []config.Attrs
	for _, a := range attrs {
		if a["type"] == "image" && isSet(a["push"]) && !stored && (a["store"] == "" || isSet(a["store"])) {
			local := maps.Clone(a)
			local["push"], stored = "false", true
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
	for k := range a {
		if !slices.Contains(knownAttrs(), k) && !strings.HasPrefix(k, "annotation") {
			return Output{}, fmt.Errorf("unknown attribute %q", k)
		}
	}
	p := attrParser{attrs: a}
	o := Output{Dest: a["dest"], ByDigest: p.flag("push-by-digest", false), Split: p.flag("platform-split", true)}
	o.Form = LayerForm{
		Compression: a["compression"], Level: p.number("compression-level"), Force: p.flag("force-compression", false),
		KeepTimes: !p.flag("rewrite-timestamp", true), ClampTimes: p.flag("rewrite-timestamp", false),
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
	return o, o.Form.validate(o.Docker)
}

func absPath(dir, p string) (string, error) {
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	return filepath.Abs(p)
}

func (o *Output) hasPath() bool {
	switch o.Kind {
	case KindOCITar, KindOCIDir, KindDocker, KindLocal, KindTar:
		return true
	}
	return false
}

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
		return fmt.Errorf("no type: write type=image, registry, oci, docker, local, tar or cacheonly")
	default:
		return fmt.Errorf("unknown type %q: known are image, registry, oci, docker, local, tar and cacheonly", a["type"])
	}
	if o.Dest == "" && (o.Kind == KindOCIDir || o.Kind == KindLocal) {
		return fmt.Errorf("type=%s writes a directory: give it with dest=DIR", a["type"])
	}
	if o.Dest == stdoutTarget && (o.Kind == KindOCIDir || o.Kind == KindLocal) {
		return fmt.Errorf("type=%s writes a directory: it cannot go to stdout", a["type"])
	}
	if o.Dest == "" && (o.Kind == KindOCITar || o.Kind == KindTar) {
		o.Dest = stdoutTarget
	}
	return nil
}

// check finds what cannot go together.
func (o Output) check(images []*planner.Image) error {
	if err := o.checkAttestations(images); err != nil {
		return err
	}
	several := len(images) > 1 || images[0].MultiPlatform
	if several && (o.Kind == KindDocker || o.Kind == KindLoad) {
		return fmt.Errorf("type=docker holds one platform, and this target has %d: use type=oci, or ask for one platform", len(images))
	}
	if !several && !slices.ContainsFunc(images, attests) && o.isImage() && o.Annotations.hasIndex() {
		return fmt.Errorf("index annotations need an index: this target has a single platform")
	}
	if o.Kind == KindPush && len(o.Names) == 0 {
		return fmt.Errorf("a push needs a tag: add tags to the target or name= to the output")
	}
	return nil
}

// attrParser reads typed attributes and keeps the first error.
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
		p.err = fmt.Errorf("%s=%s: want true or false", name, v)
	}
	return b
}

func (p *attrParser) number(name string) int {
	v, ok := p.attrs[name]
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s=%s: want a number", name, v)
	}
	return n
}

// byTarget groups the platforms of each target, in the order of first appearance.
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

// Forms lists the layer forms that the outputs of images need, by target, so that an engine can compress while other
// steps still run. Outputs that need no compressed layer add none. An engine calls it before anything runs, and so it refuses what
// Validate does.
func Forms(images []*planner.Image, dir string) (map[string][]LayerForm, error) {
	all, err := allOutputs(images, dir)
	if err != nil {
		return nil, err
	}
	forms := map[string][]LayerForm{}
	for _, t := range all {
		seen := map[LayerForm]bool{}
		for _, o := range t.outputs {
			if o.isImage() {
				seen[o.Form] = true
			}
		}
		forms[t.target] = slices.SortedFunc(maps.Keys(seen), LayerForm.compare)
	}
	return forms, nil
}
