package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// The formats of `bake pin --format`.
const (
	formatSourcePolicy = "source-policy"
	formatBakeHCL      = "bake-hcl"
)

// printPins prints the pins that a plan uses, for other tools.
func (a *app) printPins(p *lockPlan, format string) error {
	if format == formatBakeHCL {
		return a.printBakeHCL(p)
	}
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(p.sourcePolicy())
}

// sourcePolicy is a policy of BuildKit: what EXPERIMENTAL_BUILDKIT_SOURCE_POLICY and buildctl --source-policy-file name.
type sourcePolicy struct {
	Version int          `json:"version"`
	Rules   []sourceRule `json:"rules"`
}

type sourceRule struct {
	Action   string         `json:"action"`
	Selector sourceSelector `json:"selector"`
	Updates  sourceUpdates  `json:"updates"`
}

type sourceSelector struct {
	Identifier string `json:"identifier"`
	MatchType  string `json:"matchType"`
}

type sourceUpdates struct {
	Identifier string            `json:"identifier,omitempty"`
	Attrs      map[string]string `json:"attrs,omitempty"`
}

// sourcePolicy converts every source that the lock pins into what it is pinned to.
func (p *lockPlan) sourcePolicy() sourcePolicy {
	policy := sourcePolicy{Version: 1, Rules: []sourceRule{}}
	add := func(from string, to sourceUpdates) {
		policy.Rules = append(policy.Rules, sourceRule{"CONVERT", sourceSelector{from, "EXACT"}, to})
	}
	for _, key := range slices.Sorted(maps.Keys(p.lock.Images)) {
		pin := p.lock.Images[key]
		place := key
		if pin.From != "" {
			place = pin.From
		}
		add("docker-image://"+key, sourceUpdates{Identifier: "docker-image://" + place + "@" + pin.Digest.String()})
	}
	for _, s := range p.graph.Sources {
		commit, file := p.lock.Git[s.Key], p.lock.HTTP[s.Key]
		switch {
		case commit != "":
			for _, id := range s.Identifiers {
				host, fragment, _ := strings.Cut(id, "#")
				to := host + "#" + commit
				if _, sub, ok := strings.Cut(fragment, ":"); ok {
					to += ":" + sub
				}
				add(id, sourceUpdates{Identifier: to})
			}
		case file != "":
			add(s.Remote, sourceUpdates{Identifier: s.Remote, Attrs: map[string]string{"http.checksum": file.String()}})
		}
	}
	return policy
}

// printBakeHCL prints a file that Docker Bake takes beside the project's own: a named context of each image that a target
// uses, with its digest.
func (a *app) printBakeHCL(p *lockPlan) error {
	contexts := map[string]map[string]string{}
	for _, b := range p.graph.Bases {
		pin, ok := p.lock.Images[b.Ref]
		if !ok {
			continue
		}
		value := "docker-image://" + b.Ref + "@" + pin.Digest.String()
		if pin.From != "" {
			value = "docker-image://" + pin.From + "@" + pin.Digest.String()
		}
		for _, target := range b.Targets {
			if contexts[target] == nil {
				contexts[target] = map[string]string{}
			}
			for _, name := range p.contextNames(target, b.Ref) {
				contexts[target][name] = value
			}
		}
	}
	fmt.Fprintln(a.stdout, "# Written by `bake pin --format=bake-hcl`, for `docker buildx bake -f FILE -f THIS`.")
	for _, target := range slices.Sorted(maps.Keys(contexts)) {
		fmt.Fprintf(a.stdout, "\ntarget %q {\n  contexts = {\n", target)
		for _, name := range slices.Sorted(maps.Keys(contexts[target])) {
			fmt.Fprintf(a.stdout, "    %q = %q\n", name, contexts[target][name])
		}
		fmt.Fprintln(a.stdout, "  }\n}")
	}
	if n := len(p.graph.Sources); n > 0 {
		a.note("%s of git and http: a Bake file cannot pin these; --format=source-policy does", plural(n, "source"))
	}
	return nil
}

// contextNames are the names by which a target's Dockerfile may call an image: its reference, base blocks, contexts.
func (p *lockPlan) contextNames(target, ref string) []string {
	names := []string{shownName(ref)}
	is := func(image string) bool {
		full, err := storeName(image)
		return err == nil && full == ref
	}
	for name, b := range p.project.Bases {
		if is(b.Image) {
			names = append(names, name)
		}
	}
	if t := p.project.Targets[target]; t != nil {
		for name, value := range t.Contexts {
			if image, ok := strings.CutPrefix(value, "docker-image://"); ok && is(image) {
				names = append(names, name)
			}
		}
	}
	for i, name := range names {
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			names[i] = reference.FamiliarString(named)
		}
	}
	return names
}
