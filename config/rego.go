package config

import (
	"slices"
	"strconv"
)

// RegoPolicies returns the files with policies in Rego that apply to a target in Docker, as written, and whether the
// file next to its Dockerfile applies too: Dockerfile.rego for Dockerfile.
//
// As there, an entry with disabled=true ends all policies, and one with reset=true those before it and the file next to
// the Dockerfile. Other attributes, such as strict, only say how policies are evaluated.
func (t *Target) RegoPolicies() (files []string, adjacent bool) {
	if t.RegoDisabled() {
		return nil, false
	}
	adjacent = true
	for _, entry := range t.Policy {
		if on, _ := strconv.ParseBool(entry["reset"]); on {
			files, adjacent = nil, false
		}
		if file := entry["filename"]; file != "" {
			files = append(files, file)
		}
	}
	return files, adjacent
}

// RegoDisabled reports whether all policies in Rego are disabled for a target, also the one that is built into Docker.
func (t *Target) RegoDisabled() bool {
	return slices.ContainsFunc(t.Policy, func(entry Attrs) bool {
		off, _ := strconv.ParseBool(entry["disabled"])
		return off
	})
}
