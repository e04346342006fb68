package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// Drift is a repository of which targets use several tags or digests, or one image that they take from several repositories.
type Drift struct {
	Repository string     `json:"repository"` // normalised; of several, with commas
	Uses       []DriftUse `json:"uses"`
	Notes      []string   `json:"notes,omitempty"` // what is odd about them, and what to do
}

// DriftUse is one of the ways in which a repository is used.
type DriftUse struct {
	Ref     string        `json:"reference"` // normalised
	Tag     string        `json:"tag"`       // "" where there is none
	Digest  digest.Digest `json:"digest"`
	Pinned  string        `json:"pinned"` // "lock", "Dockerfile" (the digest is written there) or "no"
	Targets []string      `json:"targets"`
	Places  []string      `json:"places"` // FILE:LINE, as far as known
}

// Drift lists where the targets of a graph drift apart, by repository.
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
		one := Drift{Repository: strings.Join(repositories, ", "), Notes: []string{"the same image from several repositories: take it from one"}}
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

// driftUse is how a base is used, and of which repository it is.
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

// driftNotes says what is odd about the uses of one repository.
func driftNotes(uses []DriftUse) []string {
	var notes []string
	for i, u := range uses {
		for _, o := range uses[:i] {
			switch {
			case u.Digest == o.Digest && u.Tag != o.Tag:
				notes = append(notes, fmt.Sprintf("%s and %s are the same image: unify them", tagOr(o), tagOr(u)))
			case u.Tag == o.Tag && u.Digest != o.Digest:
				notes = append(notes, fmt.Sprintf("%s means two images: one is written with its digest", tagOr(u)))
			case u.Tag == o.Tag:
				notes = append(notes, fmt.Sprintf("%s is written with its digest and without: say it in one way", tagOr(u)))
			}
		}
	}
	floating := slices.ContainsFunc(uses, func(u DriftUse) bool { return u.Pinned == "no" })
	if pinned := slices.ContainsFunc(uses, func(u DriftUse) bool { return u.Pinned != "no" }); floating && pinned {
		notes = append(notes, "some are pinned and some float: bake pin pins the rest")
	}
	return notes
}

// tagOr is a tag, or the start of the digest where there is none.
func tagOr(u DriftUse) string {
	if u.Tag != "" {
		return u.Tag
	}
	return u.Digest.String()[:min(19, len(u.Digest))]
}

// Users are the targets whose steps stand on a base or a source with this key, directly or through other targets, sorted: those
// that another pin makes build again.
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
			ids["docker-image://"+b.Ref+"@"+b.Digest.String()], ids["docker-image://"+b.From+"@"+b.Digest.String()] = true, true
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
