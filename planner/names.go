package planner

import "github.com/distribution/reference"

// FamiliarName returns the short spelling of an image reference: docker.io/library/golang:1.26 is golang:1.26. A name
// that is not a reference is returned unchanged.
func FamiliarName(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}
