package executor

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// imageNames are the references an image gets: the target's tags, else the output's name, else, in the local store
// and in an engine, the target's own name.
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
		n, err := givenName(strings.TrimSpace(t))
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return names, nil
}

// givenName is the normalised name that an image gets: "x" is "docker.io/library/x:latest". A digest in it could only
// be another's: the image's own follows from its content, and a push would move no tag.
func givenName(s string) (string, error) {
	if _, _, ok := strings.Cut(s, "@"); ok {
		return "", fmt.Errorf("image name %q has a digest, which only an image's content gives it: name a tag, or push with push-by-digest=true", s)
	}
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("image name %q: %w", s, err)
	}
	return reference.TagNameOnly(n).String(), nil
}

// familiar is the short form of a normalised name, as docker prints it, and its tag.
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
