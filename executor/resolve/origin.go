package resolve

import (
	"strings"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/planner"
)

// Images that were built here serve as bases under the names that their projects gave them. A name of a registry, such
// as registry.example.com/base, promises the registry's image, though. Without these rules any project could replace
// the bases of all other projects of this machine, without a word, and a remote definition could do so for every name.

// mayServe reports whether a stored image may be the answer for its name. An image of a remote definition serves only
// that definition. An image that another project, or a command of the user, gave the name of a registry serves no
// frozen build.
func (r *Resolver) mayServe(image cache.Image) bool {
	switch {
	case image.Kind != cache.KindBuilt, r.isOwn(image):
		return true
	case image.Origin.Remote:
		return false
	}
	return isPlain(image.Name) || !r.opts.Frozen
}

// isOwn reports whether the project that is built named an image.
func (r *Resolver) isOwn(image cache.Image) bool {
	return image.Origin.Project != "" && image.Origin == r.opts.Origin
}

// isPlain reports whether a normalized name is written without a registry and without a path, such as hello:1.
func isPlain(name string) bool { return !strings.Contains(planner.FamiliarName(name), "/") }

// noteForeign notes once that a base is not the registry's image but one of this machine that the project did not
// build.
func (r *Resolver) noteForeign(ref string) {
	name, pinned := images.SplitDigest(ref)
	image, ok, err := r.store.Image(name)
	if err != nil || !ok || pinned != "" || image.Kind != cache.KindBuilt || isPlain(name) || r.isOwn(image) ||
		!r.first(name) {
		return
	}
	by := "bake image load or tag named here"
	if image.Origin.Project != "" {
		by = "the project in " + image.Origin.Project + " built here"
	}
	r.opts.Note("base %s is the image that %s, not the registry's; to use the registry's, add --pull",
		planner.FamiliarName(name), by)
}

// noteUnused notes once that the store has an image with the name of a base that it did not use.
func (r *Resolver) noteUnused(ref string) {
	name, pinned := images.SplitDigest(ref)
	image, ok, err := r.store.Image(name)
	if err != nil || !ok || pinned != "" || r.mayServe(image) || !r.first(name) {
		return
	}
	why := "was built here by the remote definition " + image.Origin.Project + " and serves only that definition"
	if !image.Origin.Remote {
		why = "was not built by this project and serves no frozen build"
	}
	r.opts.Note("base %s: the image of this name in the local store %s", planner.FamiliarName(name), why)
}

// first reports whether it is called for the first time with a name.
func (r *Resolver) first(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.noted[name]
	r.noted[name] = true
	return !known
}
