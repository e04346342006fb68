package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// Drift is a repository that targets use with several tags or digests, or an image that they pull from several
// repositories.
type Drift struct {
	Repository string     `json:"repository"` // normalized; several are separated by commas
	Uses       []DriftUse `json:"uses"`
	Notes      []string   `json:"notes,omitempty"` // each inconsistency and how to resolve it
}

// DriftUse is one of the references by which a repository is used.
type DriftUse struct {
	Ref     string        `json:"reference"` // normalized
	Tag     string        `json:"tag"`       // "" if the reference has none
	Digest  digest.Digest `json:"digest"`
	Pinned  string        `json:"pinned"` // "lock", "Dockerfile" (the reference has a digest) or "no"
	Targets []string      `json:"targets"`
	Places  []string      `json:"places"` // FILE:LINE, if known
}

// Drift lists the inconsistent uses of repositories by the targets of a graph: first repositories with several
// references, sorted by name, then images from several repositories, sorted by digest.
func (g *Graph) Drift() []Drift {
	byRepository, byDigest := map[string][]DriftUse{}, map[digest.Digest][]string{}
	for _, b := range g.Bases {
		repository, use := driftUse(b)
		byRepository[repository] = append(byRepository[repository], use)
		if !slices.Contains(byDigest[use.Digest], repository) {
			byDigest[use.Digest] = append(byDigest[use.Digest], repository)
		}
	}
	var list []Drift
	for _, r := range slices.Sorted(maps.Keys(byRepository)) {
		if uses := byRepository[r]; len(uses) > 1 {
			list = append(list, Drift{r, uses, driftNotes(uses)})
		}
	}
	for _, d := range slices.Sorted(maps.Keys(byDigest)) {
		repositories := byDigest[d]
		if len(repositories) < 2 {
			continue
		}
		one := Drift{
			Repository: strings.Join(repositories, ", "),
			Notes:      []string{"the same image is pulled from several repositories; use one of them"},
		}
		for _, r := range repositories {
			for _, use := range byRepository[r] {
				if use.Digest == d {
					one.Uses = append(one.Uses, use)
				}
			}
		}
		list = append(list, one)
	}
	return list
}

// driftUse returns the repository of a base and the way it is used.
func driftUse(b BaseUse) (repository string, use DriftUse) {
	use = DriftUse{Ref: b.Ref, Digest: b.Digest, Pinned: "no", Targets: b.Targets, Places: []string{}}
	for _, at := range b.Places {
		use.Places = append(use.Places, fmt.Sprintf("%s:%d", at.File, at.Start))
	}
	if b.Locked {
		use.Pinned = "lock"
	}
	named, err := reference.ParseNormalizedNamed(b.Ref)
	if err != nil {
		return b.Ref, use
	}
	if tagged, ok := named.(reference.Tagged); ok {
		use.Tag = tagged.Tag()
	}
	if _, ok := named.(reference.Digested); ok {
		use.Pinned = "Dockerfile"
	}
	return named.Name(), use
}

// driftNotes describes the inconsistencies among the uses of one repository.
func driftNotes(uses []DriftUse) []string {
	var notes []string
	for i, u := range uses {
		for _, o := range uses[:i] {
			switch {
			case u.Digest == o.Digest && u.Tag != o.Tag:
				notes = append(notes, fmt.Sprintf("%s and %s are the same image; use one tag", tagOr(o), tagOr(u)))
			case u.Tag == o.Tag && u.Digest != o.Digest:
				notes = append(notes, fmt.Sprintf("%s is two different images: one use has a digest", tagOr(u)))
			case u.Tag == o.Tag:
				notes = append(notes, fmt.Sprintf("%s is used with and without its digest; use one of them", tagOr(u)))
			}
		}
	}
	floating := slices.ContainsFunc(uses, func(u DriftUse) bool { return u.Pinned == "no" })
	if pinned := slices.ContainsFunc(uses, func(u DriftUse) bool { return u.Pinned != "no" }); floating && pinned {
		notes = append(notes, "some uses are pinned and some are not; to pin the rest, run bake pin")
	}
	return notes
}

// tagOr returns the tag of a use, or the start of its digest if it has no tag.
func tagOr(u DriftUse) string {
	if u.Tag != "" {
		return u.Tag
	}
	return u.Digest.String()[:min(19, len(u.Digest))]
}

// Users returns the targets that use the base or source with this key, directly or through linked targets, sorted.
// These are the targets that change when its pin changes.
func (g *Graph) Users(key string) []string {
	var users []string
	add := func(targets []string) {
		for _, t := range targets {
			users = addSorted(users, t)
		}
	}
	ids := map[string]bool{}
	for _, b := range g.Bases {
		if b.Ref == key {
			add(b.Targets)
			ids["docker-image://"+b.Ref+"@"+b.Digest.String()],
				ids["docker-image://"+b.From+"@"+b.Digest.String()] = true, true
		}
	}
	for _, s := range g.Sources {
		if s.Key == key {
			add(s.Targets)
		}
	}
	for _, s := range g.Steps {
		if source := s.Op.GetSource(); source != nil && ids[source.Identifier] {
			add(s.Targets)
		}
	}
	return users
}
