package report

import (
	"fmt"
	"strings"
)

// minDigest is the minimum number of digits of an abbreviated digest.
const minDigest = 6

// FindSteps returns the indices of the steps that match a query: a digest or its first digits, a location FILE:LINE in
// a Dockerfile, or a part of the name, in this order of precedence.
func (r Run) FindSteps(query string) []int {
	var byDigest, byPlace, byName []int
	for i, s := range r.Steps {
		hex := strings.TrimPrefix(query, "sha256:")
		if len(hex) >= minDigest && strings.HasPrefix(s.Digest.Encoded(), hex) {
			byDigest = append(byDigest, i)
		}
		for _, at := range s.Source {
			if file, line, ok := strings.Cut(query, ":"); ok && file == at.File &&
				containsLine(at.Start, at.End, line) {
				byPlace = append(byPlace, i)
				break
			}
		}
		if strings.Contains(s.Name, query) {
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

// containsLine reports whether a line number, as text, is in a range. An end before start means a single line.
func containsLine(start, end int, line string) bool {
	n := 0
	if _, err := fmt.Sscanf(line, "%d", &n); err != nil {
		return false
	}
	return start <= n && n <= max(start, end)
}

// OfTarget returns the indices of the steps that a target needs.
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

// All returns the indices of all steps.
func (r Run) All() []int {
	all := make([]int, len(r.Steps))
	for i := range all {
		all[i] = i
	}
	return all
}
