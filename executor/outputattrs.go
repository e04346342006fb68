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
	// types are the types of output that have it, separated by blanks.
	types string
	// refused is a value that would have no effect here, "*" for all, and instead what to do. Both are "" if every
	// value has an effect.
	refused, instead string
}

// Types of outputs with the same attributes.
const (
	storedTypes = "store image registry"
	imageTypes  = storedTypes + " oci docker"
	fileTypes   = "local tar"
)

// outputAttrs lists the attributes of outputs except annotations. Each has an effect, or its value asks for what
// happens anyway; anything else is refused, since an option must not be dropped in silence. The table has only
// constants, so that making it costs nothing: each output of thousands of targets is checked several times.
func outputAttrs() [26]outputAttr {
	return [...]outputAttr{
		{name: "dest", types: "oci docker local tar"},
		{name: "name", types: imageTypes},
		{name: "push", types: storedTypes},
		{name: "push-by-digest", types: storedTypes},
		{name: "registry.insecure", types: storedTypes},
		{name: "store", types: storedTypes},
		{name: "name-canonical", types: storedTypes},
		{name: "dangling-name-prefix", types: storedTypes},
		{name: "danging-name-empty-only", types: storedTypes}, // BuildKit's spelling
		{name: "unpack", types: storedTypes, refused: "true",
			instead: "images are unpacked when a step runs on them; remove it"},
		{name: "oci-mediatypes", types: imageTypes},
		{name: "oci-artifact", types: imageTypes},
		{name: "compression", types: imageTypes},
		{name: "compression-level", types: imageTypes},
		{name: "force-compression", types: imageTypes},
		{name: "attestation-inline", types: imageTypes, refused: "false",
			instead: "attestations are always part of the image; build without them: --provenance=false --sbom=false"},
		{name: "prefer-nondist-layers", types: imageTypes, refused: "true",
			instead: "all layers are distributed; remove it"},
		{name: "buildinfo", types: imageTypes, refused: "true",
			instead: "BuildKit removed it; use attest = [\"type=provenance\"]"},
		{name: "rewrite-timestamp", types: imageTypes + " " + fileTypes},
		{name: "source-date-epoch", types: imageTypes + " " + fileTypes},
		{name: "tar", types: "oci docker"},
		{name: "context", types: "docker"},
		{name: "platform-split", types: fileTypes},
		{name: "attestation-prefix", types: fileTypes},
		{name: "mode", types: "local", refused: "delete",
			instead: "files are never deleted from a directory; remove it before the build"},
		{name: "src", types: fileTypes, refused: "*",
			instead: "copy the files into a stage: FROM scratch, COPY --from=STAGE DIR /"},
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
		i := slices.IndexFunc(known[:], func(k outputAttr) bool { return k.name == name })
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
	has := func(types, kind string) bool { return slices.Contains(strings.Fields(types), kind) }
	if kind := a["type"]; has(outputTypes, kind) && !has(k.types, kind) {
		return fmt.Errorf("%s has no effect with type=%s; remove it", k.name, kind)
	}
	value := a[k.name]
	if k.refused != "" && (k.refused == "*" || value == k.refused || k.refused == "true" && isSet(value)) {
		return fmt.Errorf("%s=%s is not supported: %s", k.name, value, k.instead)
	}
	return nil
}

// annotationAttr returns the attribute of an annotation, such as annotation-index.KEY.
func annotationAttr(name string) outputAttr { return outputAttr{name: name, types: imageTypes} }

// outputTypes are the types of outputs with attributes of their own.
const outputTypes = imageTypes + " " + fileTypes + " cacheonly"
