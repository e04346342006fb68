package executor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
)

// outputAttr is an attribute of an output, as BuildKit and buildx document it.
type outputAttr struct {
	name string
	// types are the types of output that have it.
	types []string
	// refused are the values that would have no effect here, with what to do instead.
	refused map[string]string
}

// outputAttrs lists the attributes of outputs except annotations. Each has an effect, or its value asks for what
// happens anyway; anything else is refused, since an option must not be dropped in silence.
func outputAttrs() []outputAttr {
	registry := []string{string(KindStore), "image", "registry"}
	images := append(slices.Clone(registry), "oci", "docker")
	files := []string{"local", "tar"}
	return []outputAttr{
		{name: "dest", types: []string{"oci", "docker", "local", "tar"}},
		{name: "name", types: images},
		{name: "push", types: registry},
		{name: "push-by-digest", types: registry},
		{name: "registry.insecure", types: registry},
		{name: "store", types: registry},
		{name: "name-canonical", types: registry},
		{name: "dangling-name-prefix", types: registry},
		{name: "danging-name-empty-only", types: registry}, // BuildKit's spelling
		{name: "unpack", types: registry, refused: map[string]string{
			"true": "images are unpacked when a step runs on them; remove it"}},
		{name: "oci-mediatypes", types: images},
		{name: "oci-artifact", types: images},
		{name: "compression", types: images},
		{name: "compression-level", types: images},
		{name: "force-compression", types: images},
		{name: "attestation-inline", types: images, refused: map[string]string{
			"false": "attestations are always part of the image; build without them: --provenance=false --sbom=false"}},
		{name: "prefer-nondist-layers", types: images, refused: map[string]string{
			"true": "all layers are distributed; remove it"}},
		{name: "buildinfo", types: images, refused: map[string]string{
			"true": "BuildKit removed it; use attest = [\"type=provenance\"]"}},
		{name: "rewrite-timestamp", types: append(slices.Clone(images), files...)},
		{name: "source-date-epoch", types: append(slices.Clone(images), files...)},
		{name: "tar", types: []string{"oci", "docker"}},
		{name: "context", types: []string{"docker"}},
		{name: "platform-split", types: files},
		{name: "attestation-prefix", types: files},
		{name: "mode", types: []string{"local"}, refused: map[string]string{
			"delete": "files are never deleted from a directory; remove it before the build"}},
		{name: "src", types: files, refused: map[string]string{
			"": "copy the files into a stage: FROM scratch, COPY --from=STAGE DIR /"}},
	}
}

// checkAttrs refuses attributes that are unknown, that the type of the output does not have, or whose value would have
// no effect.
func checkAttrs(a config.Attrs) error {
	known := outputAttrs()
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if name == "type" {
			continue
		}
		if strings.HasPrefix(name, "annotation") {
			if err := annotationAttr(name).check(a); err != nil {
				return err
			}
			continue
		}
		i := slices.IndexFunc(known, func(k outputAttr) bool { return k.name == name })
		if i < 0 {
			return fmt.Errorf("unknown attribute %q", name)
		}
		if err := known[i].check(a); err != nil {
			return err
		}
	}
	return nil
}

func (k outputAttr) check(a config.Attrs) error {
	if kind := a["type"]; slices.Contains(outputTypes(), kind) && !slices.Contains(k.types, kind) {
		return fmt.Errorf("%s has no effect with type=%s; remove it", k.name, kind)
	}
	value := a[k.name]
	for refused, instead := range k.refused {
		if refused == "" || value == refused || refused == "true" && isSet(value) {
			return fmt.Errorf("%s=%s is not supported: %s", k.name, value, instead)
		}
	}
	return nil
}

// annotationAttr returns the attribute of an annotation, such as annotation-index.KEY.
func annotationAttr(name string) outputAttr {
	return outputAttr{name: name, types: []string{string(KindStore), "image", "registry", "oci", "docker"}}
}

// outputTypes are the types of outputs with attributes of their own.
func outputTypes() []string {
	return []string{string(KindStore), "image", "registry", "oci", "docker", "local", "tar", "cacheonly"}
}
