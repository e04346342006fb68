package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bakebuild/bake/planner"
)

// minDigest is the minimum number of digits of an abbreviated digest.
const minDigest = 6

// FindSteps returns the indices of the steps that match a query: a digest or its first digits, a location FILE:LINE in
// a Dockerfile, or a part of the name, in this order of precedence.
func (r Run) FindSteps(query string) []int {
	var byDigest, byPlace, byName []int
	for i, s := range r.Steps {
		named := append([]OtherStep{{s.Digest, s.Name, s.Source, nil}}, s.Also...)
		if slices.ContainsFunc(named, func(o OtherStep) bool { return o.hasDigest(query) }) {
			byDigest = append(byDigest, i)
		}
		if slices.ContainsFunc(named, func(o OtherStep) bool { return o.isAt(query) }) {
			byPlace = append(byPlace, i)
		}
		if slices.ContainsFunc(named, func(o OtherStep) bool { return strings.Contains(o.Name, query) }) {
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

// hasDigest reports whether a query is the digest of a step or its first digits.
func (o OtherStep) hasDigest(query string) bool {
	hex := strings.TrimPrefix(query, "sha256:")
	return len(hex) >= minDigest && strings.HasPrefix(o.Digest.Encoded(), hex)
}

// isAt reports whether a query FILE:LINE is a place of a step.
func (o OtherStep) isAt(query string) bool {
	file, line, ok := strings.Cut(query, ":")
	return ok && slices.ContainsFunc(o.Source, func(at planner.Location) bool {
		return file == at.File && containsLine(at.Start, at.End, line)
	})
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
