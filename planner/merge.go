package planner

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// merger makes one graph of the results of all targets: nodes with one digest become one step.
type merger struct {
	graph  *Graph
	steps  map[digest.Digest]*Step
	owners map[*Step][]string // targets in whose Dockerfile a step stands
}

func (p *plan) merge(targets []*config.Target) (*Graph, error) {
	g := &Graph{
		Locals:  map[string]Local{},
		Layouts: map[string]Local{},
		Secrets: map[string][]config.Secret{},
		SSH:     map[string][]config.SSH{},
		Bases:   p.bases.list(),
		Sources: p.bases.sourceList(),
	}
	m := &merger{graph: g, steps: map[digest.Digest]*Step{}, owners: map[*Step][]string{}}
	all, requested := p.requestedFirst(targets)
	for i, d := range all {
		if i < requested {
			if err := m.addImages(d); err != nil {
				return nil, err
			}
		}
		t := d.target
		g.offer(t)
		for _, w := range d.warnings {
			m.warn(w)
		}
		mergeDirs(g.Locals, d.locals)
		mergeDirs(g.Layouts, d.layouts)
	}
	m.warnOfTags()
	for _, d := range all {
		m.own(d)
	}
	for _, s := range g.Steps {
		for _, owner := range m.owners[s] {
			if !slices.Contains(s.Targets, owner) {
				s.Targets = append(s.Targets, owner)
			}
		}
		if len(all) > 1 {
			s.Name = withOwners(s.Name, m.owners[s])
		}
	}
	m.dropUnusedDirs()
	return g, nil
}

// offer notes what a target offers to its steps.
func (g *Graph) offer(t *config.Target) {
	if len(t.Secrets) > 0 {
		g.Secrets[t.Name] = t.Secrets
	}
	if len(t.SSH) > 0 {
		g.SSH[t.Name] = t.SSH
	}
}

// addImages adds the images of a requested target and all steps that they need.
func (m *merger) addImages(d *planned) error {
	t := d.target
	for _, r := range d.results {
		image := &Image{
			Target: t.Name, Platform: r.platform, MultiPlatform: len(d.results) > 1, Config: r.config,
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

// add gives the step of a node, after those of its inputs, and marks that the target wants it.
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

// own notes what a target's own Dockerfile says about its steps.
func (m *merger) own(d *planned) {
	for _, r := range d.results {
		m.graph.Declared += len(r.own)
		for _, n := range r.own {
			s, ok := m.steps[n.digest]
			if !ok {
				continue // of a linked target, and nobody needs it
			}
			if owners := m.owners[s]; len(owners) == 0 || owners[len(owners)-1] != d.target.Name {
				m.owners[s] = append(owners, d.target.Name)
			}
			for _, at := range n.at {
				if !slices.Contains(s.Source, at) {
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

// warn adds a warning, once for each place.
func (m *merger) warn(w Warning) {
	same := func(o Warning) bool {
		return o.Rule == w.Rule && o.Message == w.Message && o.Location == w.Location
	}
	if !slices.ContainsFunc(m.graph.Warnings, same) {
		m.graph.Warnings = append(m.graph.Warnings, w)
	}
}

// dropUnusedDirs keeps the directories that a step reads.
func (m *merger) dropUnusedDirs() {
	locals, layouts := map[string]Local{}, map[string]Local{}
	for _, s := range m.graph.Steps {
		source := s.Op.GetSource()
		if source == nil {
			continue
		}
		if name, ok := strings.CutPrefix(source.Identifier, "local://"); ok {
			locals[name] = m.graph.Locals[name]
		}
		if name := source.Attrs["oci.store"]; name != "" {
			layouts[name] = m.graph.Layouts[name]
		}
	}
	m.graph.Locals, m.graph.Layouts = locals, layouts
}

// password is the one in a URL.
var password = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)

// nodeName is the front end's name of a step, without passwords of the URLs in it.
func nodeName(n *node) string { return password.ReplaceAllString(rawName(n), "${1}xxxxx@") }

func rawName(n *node) string {
	if s := n.op.GetSource(); s != nil && strings.HasPrefix(s.Identifier, "local://") {
		return "[internal] load build context " + strings.TrimPrefix(s.Identifier, "local://")
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

// withOwners puts the targets in front: "[api build 2/4] RUN make", or "[api +2 build 2/4] RUN make" for three.
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

// baseOf is the image at the bottom of the chain of root file systems that ends in a step.
func (m *merger) baseOf(s *Step) Base {
	for s != nil {
		if source := s.Op.GetSource(); source != nil {
			ref, ok := strings.CutPrefix(source.Identifier, "docker-image://")
			if !ok {
				return Base{}
			}
			return m.byItsName(splitRef(ref))
		}
		s = below(s)
	}
	return Base{}
}

// byItsName is a base by the reference that the project has for it, where the lock says that it is kept elsewhere.
func (m *merger) byItsName(b Base) Base {
	for _, use := range m.graph.Bases {
		if use.From != "" && use.From == b.Ref && use.Digest == b.Digest {
			b.Ref = use.Ref
			break
		}
	}
	return b
}

// below is the step whose file system a step changes.
func below(s *Step) *Step {
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

// splitRef splits "name:tag@digest".
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
