package planner

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// merger merges the results of all targets into one graph: nodes with the same digest become one step.
//
// Many targets of a project start with the same instructions, and each of these should run once. Nodes are in canonical
// form (see node), so equal digests mean equal work, whichever target, platform or Dockerfile line a node comes from.
// Everything in which equal nodes may differ is kept outside the digest and combined: names, locations, targets,
// no-cache and resource limits.
//
// Two invariants hold. Steps are appended after their inputs, so a Graph is always in topological order. Targets are
// visited in the order requested and never in the order in which their planning ended, so the bytes of the graph do not
// depend on concurrency. Without the first, engines would wait for steps they have not seen; without the second, every
// digest over a graph would change from run to run. The cost is one pass over the nodes of each requested target.
// TestMonorepoMerges shows the sharing, TestSamePlan the order.
type merger struct {
	graph  *Graph
	steps  map[digest.Digest]*Step
	owners map[*Step][]string // the targets whose Dockerfiles contain a step
	// listed holds what the graph lists once each: locations by step, targets by step, warnings. Thousands of targets
	// may share a step, so looking in its list for each would be quadratic.
	listed map[any]bool
}

// first reports whether it is called with this value for the first time.
func (m *merger) first(what any) bool {
	known := m.listed[what]
	m.listed[what] = true
	return !known
}

// merge returns the graph of the targets that were planned successfully.
func (p *plan) merge(targets []*config.Target) (*Graph, error) {
	g := &Graph{
		Locals:  map[string]Local{},
		Layouts: map[string]Local{},
		Secrets: map[string][]config.Secret{},
		SSH:     map[string][]config.SSH{},
		Bases:   p.bases.list(),
		Sources: p.bases.sourceList(),

		OwnerChecks: map[string]OwnerCheck{},
	}
	m := &merger{graph: g, steps: map[digest.Digest]*Step{}, owners: map[*Step][]string{}, listed: map[any]bool{}}
	all, requested := p.requestedFirst(targets)
	for i, d := range all {
		if i < requested {
			if err := m.addImages(d); err != nil {
				return nil, err
			}
		}
		t := d.target
		g.addSecrets(t)
		for _, w := range d.warnings {
			m.warn(w)
		}
		g.addOwnerCheck(d.file, d.ownerCheck)
		mergeDirs(g.Locals, d.locals)
		mergeDirs(g.Layouts, d.layouts)
	}
	m.warnOfTags()
	for _, d := range all {
		m.annotate(d)
	}
	for _, s := range g.Steps {
		needed := map[string]bool{}
		for _, target := range s.Targets {
			needed[target] = true
		}
		for _, owner := range m.owners[s] {
			if !needed[owner] { // owners has each once
				s.Targets = append(s.Targets, owner)
			}
		}
		if len(all) > 1 {
			s.Name = withOwners(s.Name, m.owners[s])
		}
	}
	m.warnOfLayers()
	m.dropUnusedDirs()
	return g, nil
}

// addSecrets records the secrets and SSH agents of a target.
func (g *Graph) addSecrets(t *config.Target) {
	if len(t.Secrets) > 0 {
		g.Secrets[t.Name] = t.Secrets
	}
	if len(t.SSH) > 0 {
		g.SSH[t.Name] = t.SSH
	}
}

// addImages adds the images of a requested target and all steps they need.
func (m *merger) addImages(d *planned) error {
	t := d.target
	for _, r := range d.results {
		image := &Image{
			Target: t.Name, Platform: r.platform, MultiPlatform: len(d.results) > 1 || d.several, Config: r.config,
			Tags: t.Tags, Annotations: t.Annotations, Outputs: t.Outputs, Epoch: r.epoch,
			Provenance: r.provenance,
		}
		if r.root.node != nil {
			image.Root = Edge{m.add(r.root.node, t.Name, map[*node]*Step{}), r.root.index}
			image.Base = m.baseOf(image.Root.Step)
		}
		if err := m.addTests(t, image, r); err != nil {
			return err
		}
		if r.sbom != nil && r.sbom.node != nil {
			image.SBOM = &Edge{m.add(r.sbom.node, t.Name, map[*node]*Step{}), r.sbom.index}
		}
		m.graph.Images = append(m.graph.Images, image)
	}
	return nil
}

// add returns the step of a node and marks it as needed by a target. A new step is appended after those of its inputs.
func (m *merger) add(n *node, target string, seen map[*node]*Step) *Step {
	if s, ok := seen[n]; ok {
		return s
	}
	inputs := make([]Edge, len(n.inputs))
	for i, in := range n.inputs {
		inputs[i] = Edge{m.add(in.node, target, seen), in.index}
	}
	s, ok := m.steps[n.digest]
	if !ok {
		s = &Step{Digest: n.digest, Op: n.op, Inputs: inputs, Name: nodeName(n)}
		s.Own = s.Name
		m.steps[n.digest] = s
		m.graph.Steps = append(m.graph.Steps, s)
	}
	if len(s.Targets) == 0 || s.Targets[len(s.Targets)-1] != target {
		s.Targets = append(s.Targets, target)
	}
	seen[n] = s
	return s
}

// annotate adds to the steps what a target's own Dockerfile contributes: owner, locations, no-cache and resource
// limits.
func (m *merger) annotate(d *planned) {
	for _, r := range d.results {
		m.graph.Declared += len(r.own)
		for _, n := range r.own {
			s, ok := m.steps[n.digest]
			if !ok {
				continue // part of a linked target that no image needs
			}
			if owners := m.owners[s]; len(owners) == 0 || owners[len(owners)-1] != d.target.Name {
				m.owners[s] = append(owners, d.target.Name)
			}
			for _, at := range n.at {
				if m.first(stepLocation{s, at}) {
					s.Source = append(s.Source, at)
				}
			}
			if n.meta.IgnoreCache {
				s.NoCache = true
			}
			if s.Resources == nil {
				s.Resources = n.meta.LinuxResources
			}
		}
	}
}

// stepLocation is a location of a step, for merger.first.
type stepLocation struct {
	step *Step
	at   Location
}

// warn adds a warning unless the same one was added for the same location.
func (m *merger) warn(w Warning) {
	if m.first(Warning{Rule: w.Rule, Message: w.Message, Location: w.Location}) {
		m.graph.Warnings = append(m.graph.Warnings, w)
	}
}

// dropUnusedDirs removes the directories that no step reads.
func (m *merger) dropUnusedDirs() {
	locals, layouts := map[string]Local{}, map[string]Local{}
	for _, s := range m.graph.Steps {
		source := s.Op.GetSource()
		if source == nil {
			continue
		}
		if name, ok := strings.CutPrefix(source.Identifier, LocalPrefix); ok {
			locals[name] = m.graph.Locals[name]
		}
		if name := source.Attrs["oci.store"]; name != "" {
			layouts[name] = m.graph.Layouts[name]
		}
	}
	m.graph.Locals, m.graph.Layouts = locals, layouts
}

// password matches the password of a URL, with the "://USER:" in front of it.
var password = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)

// nodeName returns the frontend's name of a step with the passwords of URLs replaced, because names are displayed and
// recorded.
func nodeName(n *node) string { return password.ReplaceAllString(rawName(n), "${1}xxxxx@") }

func rawName(n *node) string {
	if s := n.op.GetSource(); s != nil && strings.HasPrefix(s.Identifier, LocalPrefix) {
		return "[internal] load build context " + strings.TrimPrefix(s.Identifier, LocalPrefix)
	}
	if name := n.meta.Description["llb.customname"]; name != "" {
		return name
	}
	switch {
	case n.op.GetSource() != nil:
		return n.op.GetSource().Identifier
	case n.op.GetExec() != nil:
		return strings.Join(n.op.GetExec().GetMeta().GetArgs(), " ")
	}
	return "[internal] " + opKind(n.op)
}

// withOwners puts the targets in front of a name: "[api build 2/4] RUN make", or "[api +2 build 2/4] RUN make" for
// three.
func withOwners(name string, owners []string) string {
	if len(owners) == 0 {
		return name
	}
	prefix := owners[0]
	if len(owners) > 1 {
		prefix += fmt.Sprintf(" +%d", len(owners)-1)
	}
	if rest, ok := strings.CutPrefix(name, "["); ok {
		return "[" + prefix + " " + strings.TrimLeft(rest, " ")
	}
	return "[" + prefix + "] " + name
}

// baseOf returns the image at the bottom of the chain of root file systems that ends in a step, or the zero Base.
func (m *merger) baseOf(s *Step) Base {
	for s != nil {
		if source := s.Op.GetSource(); source != nil {
			ref, ok := strings.CutPrefix(source.Identifier, "docker-image://")
			if !ok {
				return Base{}
			}
			return m.projectRef(splitRef(ref))
		}
		s = parentOf(s)
	}
	return Base{}
}

// projectRef returns a base under the reference used in the project. The two differ if the lock names a copy in another
// repository to pull from.
func (m *merger) projectRef(b Base) Base {
	for _, use := range m.graph.Bases {
		if use.From != "" && use.From == b.Ref && use.Digest == b.Digest {
			b.Ref = use.Ref
			break
		}
	}
	return b
}

// parentOf returns the step whose file system a step changes, or nil.
func parentOf(s *Step) *Step {
	input := -1
	switch {
	case s.Op.GetExec() != nil:
		for _, m := range s.Op.GetExec().Mounts {
			if m.Dest == "/" {
				input = int(m.Input)
			}
		}
	case s.Op.GetFile() != nil && len(s.Op.GetFile().Actions) > 0:
		input = int(s.Op.GetFile().Actions[0].Input)
	case s.Op.GetMerge() != nil:
		input = 0
	}
	if input < 0 || input >= len(s.Inputs) {
		return nil
	}
	return s.Inputs[input].Step
}

// splitRef splits NAME:TAG@DIGEST.
func splitRef(ref string) Base {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return Base{Ref: ref}
	}
	b := Base{Ref: ref}
	if d, ok := named.(reference.Digested); ok {
		b.Digest = d.Digest()
		b.Ref = strings.TrimSuffix(named.String(), "@"+b.Digest.String())
	}
	return b
}
