package images

import (
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/planner"
)

// FullName returns the name that the store keeps an image under: "x" is docker.io/library/x:latest.
func FullName(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", errorf("image name %q: %v", name, err)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// IsNameOnly reports whether a name has neither tag nor digest, so that it stands for the moving tag "latest".
func IsNameOnly(name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	return err == nil && reference.IsNameOnly(ref)
}

// SplitDigest splits a reference into its name and its digest. The digest is "" where there is none or it is invalid.
func SplitDigest(ref string) (name string, d digest.Digest) {
	name, rest, ok := strings.Cut(ref, "@")
	if !ok {
		return ref, ""
	}
	d = digest.Digest(rest)
	if d.Validate() != nil {
		return ref, ""
	}
	return name, d
}

// Tag gives an image of the local store more names, all or none. A name with a digest must have the image's own.
func Tag(s *cache.Store, name string, more []string) error {
	found, err := Find(s, name)
	if err != nil {
		return err
	}
	var tagged []cache.Image
	for _, n := range more {
		full, err := FullName(n)
		if err != nil {
			return err
		}
		if _, d := SplitDigest(full); d != "" && d != found.Digest {
			return errorf("image name %q has the digest of another image: %s is %s", n,
				planner.FamiliarName(found.Name), found.Digest)
		}
		next := found
		next.Name, next.Origin = full, cache.Origin{} // named by the user, no matter who built it
		tagged = append(tagged, next)
	}
	return s.PutImages(tagged)
}
