package planner

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"

	"github.com/bakebuild/bake/config"
)

// Locator returns the repositories from which an image may be pulled, HOST/PATH each, in the order in which they are
// tried: mirrors, then the registry itself.
type Locator func(ref string) []string

// The kinds of sources that a policy can judge.
const (
	sourceImage      = "image"
	sourceLayout     = "oci-layout"
	sourceGit        = "git"
	sourceHTTP       = "http"
	sourceContext    = "context"
	sourceDefinition = "definition"
	sourceCache      = "cache"
)

// policySource is something outside the project from which bytes come, with the facts that a rule can use.
type policySource struct {
	kind, ref, scheme, host, path string
	digest                        string // of the content, or the commit; "" if unknown
	locked                        bool   // the lock or the project says what the content is
	locations                     []string
	targets                       []string
	places                        []Location
}

// facts returns the fields of the variable source.
func (s policySource) facts() map[string]any {
	return map[string]any{
		"kind": s.kind, "ref": s.ref, "scheme": s.scheme, "host": s.host, "path": s.path, "digest": s.digest,
		"locked": s.locked, "locations": orEmpty(s.locations), "targets": orEmpty(s.targets),
	}
}

func orEmpty(list []string) []string { return append([]string{}, list...) }

// policySources returns every source of a build that is outside of the project, each once, sorted by kind and
// reference.
//
// Invariant: no bytes from outside become part of an image through a source that this misses, except those that a RUN
// step fetches itself. Sources of steps come from the graph, so that it does not matter how a Dockerfile names them.
// Contexts by URL, remote caches and the definition itself come from the project, since not every one of them has a
// step. TestPolicySources has each kind.
func (g *Graph) policySources(p *config.Project, locate Locator) []policySource {
	all := map[string]*policySource{}
	add := func(s policySource) {
		key := s.kind + " " + s.ref + " " + s.digest // one place may give several contents
		known := all[key]
		if known == nil {
			all[key] = &s
			return
		}
		for _, t := range s.targets {
			known.targets = addSorted(known.targets, t)
		}
		known.places = addPlaces(known.places, s.places)
		known.locked = known.locked && s.locked
	}
	for _, b := range g.Bases {
		add(imageSource(b, locate))
	}
	for _, step := range g.Steps {
		if s, ok := stepSource(step); ok {
			add(s)
		}
	}
	written := map[string]bool{} // digests of OCI layouts in the project
	users := linkUsers(p)
	for _, name := range slices.Sorted(maps.Keys(p.Targets)) {
		for _, s := range g.targetSources(p.Targets[name], locate) {
			s.targets = users[name]
			add(s)
		}
		for _, value := range p.Targets[name].Contexts {
			written[config.NamedContext(value).Digest] = true
		}
	}
	if p.Remote != "" {
		add(g.urlSource(sourceDefinition, p.Remote, slices.Sorted(maps.Keys(p.Targets))))
	}
	var list []policySource
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if s := all[key]; s.kind == sourceLayout {
			s.locked = s.digest != "" && written[s.digest]
		}
		list = append(list, *all[key])
	}
	return list
}

// linkUsers returns, for each target, the sorted names of the targets that are built with it: itself, and those that
// link to it, directly or not.
func linkUsers(p *config.Project) map[string][]string {
	links := map[string][]string{}
	for name, t := range p.Targets {
		for _, value := range t.Contexts {
			if c := config.NamedContext(value); c.Kind == config.ContextTarget && p.Targets[c.Rest] != nil {
				links[name] = append(links[name], c.Rest)
			}
		}
	}
	users := map[string][]string{}
	for _, user := range slices.Sorted(maps.Keys(p.Targets)) {
		seen := map[string]bool{}
		for next := []string{user}; len(next) > 0; {
			name := next[len(next)-1]
			next = next[:len(next)-1]
			if !seen[name] {
				seen[name] = true
				users[name] = append(users[name], user)
				next = append(next, links[name]...)
			}
		}
	}
	return users
}

// imageSource returns the source of a base.
func imageSource(b BaseUse, locate Locator) policySource {
	s := policySource{kind: sourceImage, ref: b.Ref, digest: b.Digest.String(), targets: b.Targets, places: b.Places,
		locked: b.Locked || strings.Contains(b.Ref, "@"), locations: b.locations(locate)}
	if named, err := reference.ParseNormalizedNamed(b.Ref); err == nil {
		s.host, s.path = reference.Domain(named), reference.Path(named)
	}
	return s
}

// locations returns the repositories from which a base may be pulled.
func (b BaseUse) locations(locate Locator) []string {
	named, err := reference.ParseNormalizedNamed(cmp.Or(b.From, b.Ref))
	switch {
	case err != nil:
		return nil
	case locate == nil:
		return []string{named.Name()}
	}
	return locate(reference.TagNameOnly(named).String())
}

// stepSource returns the source of a step that is not a base: an OCI layout, a git repository or a file.
func stepSource(step *Step) (policySource, bool) {
	op := step.Op.GetSource()
	scheme, rest, _ := strings.Cut(op.GetIdentifier(), "://")
	s := policySource{targets: slices.Sorted(slices.Values(step.Targets)), places: step.Source}
	switch scheme {
	case "oci-layout":
		_, s.digest, _ = strings.Cut(rest, "@")
		s.kind, s.path = sourceLayout, op.Attrs[pb.AttrOCILayoutStoreID]
		s.ref = "oci-layout://" + s.path + "@" + s.digest
	case "git":
		_, fragment, _ := strings.Cut(rest, "#")
		ref, _, _ := strings.Cut(fragment, ":")
		s.setURL(sourceGit, gitRemote(op))
		if ref != "" {
			s.ref += "#" + ref
		}
		if s.digest = op.Attrs[pb.AttrGitChecksum]; isCommit(ref) {
			s.digest = ref
		}
	case "http", "https":
		s.setURL(sourceHTTP, op.Identifier)
		s.digest = op.Attrs[pb.AttrHTTPChecksum]
	default:
		return s, false
	}
	s.locked = s.digest != ""
	return s, true
}

// setURL sets the kind, and what a URL says about the place. Passwords and queries are left out: a query may be a
// token.
func (s *policySource) setURL(kind, rawURL string) {
	s.kind = kind
	base, fragment, hasFragment := strings.Cut(password.ReplaceAllString(rawURL, "${1}xxxxx@"), "#")
	base, _, _ = strings.Cut(base, "?")
	if s.ref = base; hasFragment {
		s.ref += "#" + fragment
	}
	if u, err := gitutil.ParseURL(base); err == nil {
		s.scheme, s.host, s.path = u.Scheme, u.Host, strings.TrimPrefix(u.Path, "/")
	} else if u, err := url.Parse(base); err == nil {
		s.scheme, s.host, s.path = u.Scheme, u.Host, strings.TrimPrefix(u.Path, "/")
	}
	s.locations = []string{s.host + "/" + s.path}
}

// urlSource returns the source of a context or of the definition.
func (g *Graph) urlSource(kind, rawURL string, targets []string) policySource {
	s := policySource{targets: targets}
	key, _, _ := strings.Cut(rawURL, "#")
	if ref, isGit, err := dfgitutil.ParseGitRef(rawURL); isGit && err == nil {
		s.setURL(kind, ref.Remote)
		if key = gitKey(ref.Remote, ref.Ref); ref.Ref != "" {
			s.ref += "#" + ref.Ref
		}
		if s.digest = ref.Checksum; isCommit(ref.Ref) {
			s.digest = ref.Ref
		}
	} else {
		s.setURL(kind, key)
	}
	for _, use := range g.Sources {
		if use.Key == key && use.Pin != "" {
			s.digest = use.Pin
		}
	}
	s.locked = s.digest != ""
	return s
}

// targetSources returns the sources that the attributes of a target name.
func (g *Graph) targetSources(t *config.Target, locate Locator) []policySource {
	var list []policySource
	if c := config.MainContext(t.Context); c.Kind == config.ContextURL {
		list = append(list, g.urlSource(sourceContext, c.Rest, nil))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if c := config.NamedContext(t.Contexts[name]); c.Kind == config.ContextURL {
			list = append(list, g.urlSource(sourceContext, c.Rest, nil))
		}
	}
	for _, from := range t.CacheFrom {
		s := policySource{kind: sourceCache, scheme: from["type"]}
		named, err := reference.ParseNormalizedNamed(from["ref"])
		switch {
		case from["type"] == "registry" && err == nil:
			s.ref, s.host, s.path = named.String(), reference.Domain(named), reference.Path(named)
			s.locations = BaseUse{Ref: named.String()}.locations(locate)
		default:
			s.path = cmp.Or(from["src"], from["ref"], from["url"], from["bucket"], from["name"])
			s.ref = fmt.Sprintf("type=%s %s", from["type"], s.path)
		}
		list = append(list, s)
	}
	return list
}
