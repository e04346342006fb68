package remotecache

import (
	"path/filepath"

	"github.com/distribution/reference"
)

// Kind is a kind of place for caches.
type Kind string

// The kinds of places that are implemented. Those of BuildKit that are not (gha, s3, azblob) get their own kind and
// path: a repository, or a bucket and a prefix.
const (
	KindLocal    Kind = "local"
	KindRegistry Kind = "registry"
)

// Origin identifies the writers of a cache. What a cache claims serves only builds that name its origin. Origins
// are compared with ==.
type Origin struct {
	Kind Kind
	// Path is an absolute directory without symbolic links, or the host and repository of a registry: a user who can
	// push one tag can usually push all.
	Path string
}

// ID returns a text that differs between any two origins.
func (o Origin) ID() string { return string(o.Kind) + " " + o.Path }

// String returns the origin for people.
func (o Origin) String() string { return o.Path }

// Origin returns the origin of what is imported from the place.
func (p Place) Origin() Origin {
	if p.Dir != "" {
		dir, err := filepath.EvalSymlinks(p.Dir)
		if err != nil {
			dir = p.Dir // there is no cache yet
		}
		return Origin{KindLocal, dir}
	}
	named, err := reference.ParseNormalizedNamed(p.Ref)
	if err != nil {
		return Origin{KindRegistry, p.Ref} // Parse rejects it
	}
	return Origin{KindRegistry, named.Name()}
}
