package pins

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/planner"
)

// BakeHCL returns a file that Docker Bake reads in addition to the project's own: for each image that a target uses, a
// named context with the digest. A Bake file cannot pin git and HTTP sources.
func (p *Plan) BakeHCL() string {
	contexts := map[string]map[string]string{}
	for _, b := range p.Graph.Bases {
		if _, ok := p.Lock.Images[b.Ref]; !ok {
			continue
		}
		for _, target := range b.Targets {
			if contexts[target] == nil {
				contexts[target] = map[string]string{}
			}
			for _, name := range p.contextNames(target, b.Ref) {
				contexts[target][name] = p.pinnedImage(b.Ref)
			}
		}
	}
	var out strings.Builder
	out.WriteString("# Written by `bake pin --format=bake-hcl`, for `docker buildx bake -f FILE -f THIS`.\n")
	for _, target := range slices.Sorted(maps.Keys(contexts)) {
		fmt.Fprintf(&out, "\ntarget %q {\n  contexts = {\n", target)
		for _, name := range slices.Sorted(maps.Keys(contexts[target])) {
			fmt.Fprintf(&out, "    %q = %q\n", name, contexts[target][name])
		}
		out.WriteString("  }\n}\n")
	}
	return out.String()
}

// contextNames returns the names under which the Dockerfile of a target may use an image: the reference itself, base
// blocks and named contexts.
func (p *Plan) contextNames(target, ref string) []string {
	names := []string{ref}
	is := func(image string) bool {
		named, err := reference.ParseNormalizedNamed(image)
		return err == nil && reference.TagNameOnly(named).String() == ref
	}
	for name, b := range p.Project.Bases {
		if is(b.Image) {
			names = append(names, name)
		}
	}
	if t := p.Project.Targets[target]; t != nil {
		for name, value := range t.Contexts {
			if image, ok := strings.CutPrefix(value, imageScheme); ok && is(image) {
				names = append(names, name)
			}
		}
	}
	for i, name := range names {
		names[i] = planner.FamiliarName(name) // the frontend looks names up in this spelling
	}
	return names
}
