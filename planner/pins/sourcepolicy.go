package pins

import (
	"maps"
	"slices"
	"strings"
)

// SourcePolicy is a source policy of BuildKit, the file that EXPERIMENTAL_BUILDKIT_SOURCE_POLICY and
// buildctl --source-policy-file name.
type SourcePolicy struct {
	Version int          `json:"version"`
	Rules   []SourceRule `json:"rules"`
}

// SourceRule replaces one source by a pinned one.
type SourceRule struct {
	Action   string         `json:"action"`
	Selector SourceSelector `json:"selector"`
	Updates  SourceUpdates  `json:"updates"`
}

// SourceSelector chooses the source that a rule is about.
type SourceSelector struct {
	Identifier string `json:"identifier"`
	MatchType  string `json:"matchType"`
}

// SourceUpdates is the pinned source.
type SourceUpdates struct {
	Identifier string            `json:"identifier,omitempty"`
	Attrs      map[string]string `json:"attrs,omitempty"`
}

// SourcePolicy returns the pins as a policy: all images of the lock, and the git and HTTP sources that the plan uses.
func (p *Plan) SourcePolicy() SourcePolicy {
	policy := SourcePolicy{Version: 1, Rules: []SourceRule{}}
	add := func(from string, to SourceUpdates) {
		policy.Rules = append(policy.Rules, SourceRule{"CONVERT", SourceSelector{from, "EXACT"}, to})
	}
	for _, key := range slices.Sorted(maps.Keys(p.Lock.Images)) {
		add(imageScheme+key, SourceUpdates{Identifier: p.pinnedImage(key)})
	}
	for _, s := range p.Graph.Sources {
		commit, file := p.Lock.Git[s.Key], p.Lock.HTTP[s.Key]
		switch {
		case commit != "":
			for _, id := range s.Identifiers {
				host, fragment, _ := strings.Cut(id, "#")
				to := host + "#" + commit
				if _, sub, ok := strings.Cut(fragment, ":"); ok {
					to += ":" + sub
				}
				add(id, SourceUpdates{Identifier: to})
			}
		case file != "":
			add(s.Remote, SourceUpdates{Identifier: s.Remote, Attrs: map[string]string{"http.checksum": file.String()}})
		}
	}
	return policy
}

// imageScheme begins the identifier of an image in BuildKit and in the contexts of a target.
const imageScheme = "docker-image://"

// pinnedImage returns the identifier of a pinned image, at the repository that it is pulled from.
func (p *Plan) pinnedImage(ref string) string {
	pin := p.Lock.Images[ref]
	repository := ref
	if pin.From != "" {
		repository = pin.From
	}
	return imageScheme + repository + "@" + pin.Digest.String()
}
