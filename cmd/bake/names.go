package main

import (
	"strings"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/planner"
)

// storeName is the full name that the store keeps an image under: "x" is docker.io/library/x:latest.
func storeName(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", usagef("image name %q: %w", name, err)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// shownName returns the short spelling of a stored name: docker.io/library/x:latest is x:latest.
func shownName(name string) string { return planner.FamiliarName(name) }

// lacksTag says that a name has neither tag nor digest, so that it means the moving tag "latest".
func lacksTag(name string) bool {
	ref, err := reference.ParseNormalizedNamed(name)
	return err == nil && reference.IsNameOnly(ref)
}

// shortID is the first 12 digits of a digest, as Docker shows it.
func shortID(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok {
		hex = digest
	}
	return hex[:min(12, len(hex))]
}
