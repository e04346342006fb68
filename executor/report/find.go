package report

import (
	"fmt"
	"strings"
)

// minDigest is how many digits of a digest name a step at least.
const minDigest = 6

// FindSteps are the steps that a text names, by index: the one of which it is the digest or the first digits of it, those
// at a place in a Dockerfile written FILE:LINE, or else those whose name has the text in it.
func (r Run) FindSteps(what string) []int {
	var byDigest, byPlace, byName []int
	for i, s := range r.Steps {
		hex := strings.TrimPrefix(what, "sha256:")
		if len(hex) >= minDigest && strings.HasPrefix(s.Digest.Encoded(), hex) {
			byDigest = append(byDigest, i)
		}
		for _, at := range s.Source {
			if file, line, ok := strings.Cut(what, ":"); ok && file == at.File && holdsLine(at.Start, at.End, line) {
				byPlace = append(byPlace, i)
				break
			}
		}
		if strings.Contains(s.Name, what) {
			byName = append(byName, i)
		}
	}
	switch {
	case len(byDigest) > 0:
		return byDigest
	case len(byPlace) > 0:
		return byPlace
	}
	return byName
}

// holdsLine says whether a line, as text, is one of a range.
func holdsLine(start, end int, line string) bool {
	n := 0
	if _, err := fmt.Sscanf(line, "%d", &n); err != nil {
		return false
	}
	return start <= n && n <= max(start, end)
}

// OfTarget are the steps that a target wants, by index.
func (r Run) OfTarget(target string) []int {
	var of []int
	for i, s := range r.Steps {
		for _, t := range s.Targets {
			if t == target {
				of = append(of, i)
				break
			}
		}
	}
	return of
}

// All are all steps, by index.
func (r Run) All() []int {
	all := make([]int, len(r.Steps))
	for i := range all {
		all[i] = i
	}
	return all
}
