package executor

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// imageNames returns the references of an image: the target's tags, or else the output's name, or else, in the local
// store, the name of the target.
func imageNames(a config.Attrs, img *planner.Image, k Kind) ([]string, error) {
	tags := img.Tags
	if len(tags) == 0 && a["name"] != "" {
		tags = strings.Split(a["name"], ",")
	}
	if len(tags) == 0 && k == KindStore {
		tags = []string{strings.ToLower(img.Target)}
	}
	names := make([]string, 0, len(tags))
	for _, t := range tags {
		n, err := fullName(strings.TrimSpace(t))
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return names, nil
}

// fullName returns the normalised name of an image: "docker.io/library/x:latest" for "x". A name with a digest is an
// error: the digest follows from the image, and a push to it would move no tag.
func fullName(s string) (string, error) {
	if _, _, ok := strings.Cut(s, "@"); ok {
		return "", fmt.Errorf("image name %q has a digest, which follows from the content: "+
			"use a tag, or push with push-by-digest=true", s)
	}
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", s, err)
	}
	return reference.TagNameOnly(n).String(), nil
}

// familiar returns the short form of a normalised name, as docker prints it, and its tag.
func familiar(name string) (short, tag string) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name, ""
	}
	if t, ok := n.(reference.Tagged); ok {
		tag = t.Tag()
	}
	return reference.FamiliarString(n), tag
}
