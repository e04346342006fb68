package planner

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// maxPolicyCost limits one evaluation of a rule, in CEL's cost units.
const maxPolicyCost = 1_000_000

// Violation reports that a policy's rule is false for a subject.
type Violation struct {
	Policy  string
	Subject string // "base docker.io/library/alpine:latest" or "target api (linux/amd64)"
	Message string
	Places  []Location // for a rule about bases: the lines of Dockerfiles that name the base
	Warn    bool       // only a warning: the build continues
	Range   config.Range
}

// String returns "policy NAME: SUBJECT: MESSAGE (FILE:LINE)", with at most three locations.
func (v Violation) String() string {
	text := fmt.Sprintf("policy %s: %s: %s", v.Policy, v.Subject, v.Message)
	var places []string
	for _, at := range v.Places[:min(3, len(v.Places))] {
		places = append(places, fmt.Sprintf("%s:%d", at.File, at.Start))
	}
	if len(places) > 0 {
		text += " (" + strings.Join(places, ", ") + ")"
	}
	return text
}

// PolicyError reports that a rule could not be evaluated.
type PolicyError struct {
	Policy string
	Range  config.Range
	Err    error
}

// Error returns the location of the policy and the reason.
func (e *PolicyError) Error() string {
	return fmt.Sprintf("%spolicy %s: %v", place(e.Range.File, e.Range.Line), e.Policy, e.Err)
}

// Unwrap returns the reason.
func (e *PolicyError) Unwrap() error { return e.Err }

// CheckPolicies evaluates the policies of a project on a finished graph and returns the violations, sorted by policy.
// The error is a PolicyError.
//
// The variables in a rule decide what it is evaluated on. A rule with base is evaluated for each base, one with source
// for each source of bytes outside the project; a rule with target or image for each image; a rule with both for each
// pair of an image and a base or source that it uses, also through linked targets. A rule without any of these
// variables is evaluated once for the project. locate says where images are pulled from; nil says from their own
// registries.
//
// Invariant: no rule passes without being evaluated on each of its subjects, because an unevaluated policy must not
// appear to be enforced. A rule that cannot be evaluated, or that exceeds its cost limit, is an error.
// TestPolicyOfLinks and TestPolicyWithoutSubject show this.
func (g *Graph) CheckPolicies(p *config.Project, locate Locator) ([]Violation, error) {
	if len(p.Policies) == 0 {
		return nil, nil
	}
	facts := cel.MapType(cel.StringType, cel.DynType)
	env, err := cel.NewEnv(cel.Variable("base", facts), cel.Variable("source", facts), cel.Variable("target", facts),
		cel.Variable("image", facts))
	if err != nil {
		return nil, fmt.Errorf("prepare policies: %w", err)
	}
	sources := sync.OnceValue(func() []policySource { return g.policySources(p, locate) })
	inputs := policyInputs{
		bases:   sync.OnceValue(func() []policyInput { return g.baseInputs(sources(), locate) }),
		sources: sync.OnceValue(func() []policyInput { return g.sourceInputs(sources()) }),
	}
	var all []Violation
	for _, name := range slices.Sorted(maps.Keys(p.Policies)) {
		one := p.Policies[name]
		found, err := g.checkPolicy(env, p, one, inputs)
		if err != nil {
			return nil, &PolicyError{name, one.Range, err}
		}
		all = append(all, found...)
	}
	return all, nil
}

func (g *Graph) checkPolicy(
	env *cel.Env, p *config.Project, policy config.Policy, all policyInputs,
) ([]Violation, error) {
	ast, issues := env.Compile(policy.Rule)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	if !ast.OutputType().IsExactType(cel.BoolType) && !ast.OutputType().IsExactType(cel.DynType) {
		return nil, fmt.Errorf("rule has type %s; it must be a bool", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(maxPolicyCost))
	if err != nil {
		return nil, err
	}
	of := map[string]bool{}
	for _, r := range ast.NativeRep().ReferenceMap() {
		of[r.Name] = true
	}
	var inputs []policyInput
	switch {
	case of["base"] && of["source"]:
		return nil, errors.New("a rule cannot use both base and source; a base is a source whose kind is image or " +
			"oci-layout")
	case of["base"]:
		inputs = all.bases()
	case of["source"]:
		inputs = all.sources()
	}
	var found []Violation
	for _, s := range g.subjects(p, inputs, of["base"] || of["source"], of["target"] || of["image"]) {
		value, _, err := program.Eval(s.vars)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		holds, ok := value.Value().(bool)
		if !ok {
			return nil, errors.New("rule must evaluate to a bool")
		}
		if !holds {
			message := cmp.Or(policy.Message, "rule is false: "+policy.Rule)
			found = append(found, Violation{policy.Name, s.name, message, s.places, policy.Warn, policy.Range})
		}
	}
	return found, nil
}

// subject is one set of variables that a rule is evaluated on.
type subject struct {
	name   string
	places []Location
	vars   map[string]any
}

// policyInput is a base or a source, as the variable of that name.
type policyInput struct {
	name     string // "base REF" or "source REF"
	variable string
	facts    map[string]any
	users    []string // targets
	places   []Location
}

// policyInputs computes the inputs once for all rules.
type policyInputs struct{ bases, sources func() []policyInput }

// vars returns the variables of a rule with the given facts. Variables without facts are empty.
func (i policyInput) vars(target, image map[string]any) map[string]any {
	none := map[string]any{}
	vars := map[string]any{"base": none, "source": none, "target": target, "image": image}
	if i.variable != "" {
		vars[i.variable] = i.facts
	}
	return vars
}

// baseInputs returns the bases: images, and images of OCI layouts.
func (g *Graph) baseInputs(sources []policySource, locate Locator) []policyInput {
	var list []policyInput
	for _, b := range g.Bases {
		list = append(list, policyInput{"base " + b.Ref, "base", g.baseFacts(b, locate), g.Users(b.Ref), b.Places})
	}
	for _, s := range sources {
		if s.kind == sourceLayout {
			list = append(list, policyInput{"base " + s.ref, "base", layoutFacts(s), s.targets, s.places})
		}
	}
	return list
}

// sourceInputs returns the sources.
func (g *Graph) sourceInputs(sources []policySource) []policyInput {
	var list []policyInput
	for _, s := range sources {
		users := s.targets
		if s.kind == sourceImage {
			users = g.Users(s.ref)
		}
		list = append(list, policyInput{"source " + s.ref, "source", s.facts(), users, s.places})
	}
	return list
}

// subjects returns the subjects of a rule that uses the variables of inputs, of images, or of both: each input, each
// image, or each image with each input that it uses, also through linked targets.
func (g *Graph) subjects(p *config.Project, inputs []policyInput, hasInputs, images bool) []subject {
	none := map[string]any{}
	var list []subject
	if !images {
		for _, in := range inputs {
			list = append(list, subject{in.name, in.places, in.vars(none, none)})
		}
		if !hasInputs {
			list = append(list, subject{name: "the project", vars: map[string]any{}})
		}
		return list
	}
	for _, m := range g.Images {
		name := fmt.Sprintf("target %s (%s)", m.Target, platforms.Format(m.Platform))
		target, image := targetFacts(p.Targets[m.Target], m), imageFacts(m)
		if !hasInputs {
			list = append(list, subject{name, nil, policyInput{}.vars(target, image)})
			continue
		}
		for _, in := range inputs {
			if slices.Contains(in.users, m.Target) {
				list = append(list, subject{name + ", " + in.name, in.places, in.vars(target, image)})
			}
		}
	}
	return list
}

// layoutFacts returns the fields of the variable base for an image of an OCI layout. It has no registry and no tag, so
// that a rule that lists what is permitted denies it.
func layoutFacts(s policySource) map[string]any {
	return map[string]any{
		"ref": s.ref, "kind": s.kind, "digest": s.digest, "locked": s.locked, "written": s.locked, "targets": s.targets,
		"registry": "", "repository": "", "tag": "", "official": false, "from": "", "platforms": []string{},
		"tags": []string{}, "drift": false, "locations": []string{},
	}
}

// baseFacts returns the fields of the variable base.
func (g *Graph) baseFacts(b BaseUse, locate Locator) map[string]any {
	written := strings.Contains(b.Ref, "@")
	facts := map[string]any{
		"ref": b.Ref, "digest": b.Digest.String(), "locked": b.Locked || written, "written": written,
		"targets": b.Targets, "kind": sourceImage, "locations": orEmpty(b.locations(locate)),
		"registry": "", "repository": "", "tag": "", "official": false, "from": b.From,
		"platforms": append([]string{}, b.Platforms...),
	}
	repository, own := driftUse(b)
	tags, uses := []string{}, 0
	for _, other := range g.Bases {
		if r, use := driftUse(other); r == repository {
			uses++
			tags = addSorted(tags, use.Tag)
		}
	}
	facts["tag"], facts["tags"], facts["drift"] = own.Tag, tags, uses > 1
	if named, err := reference.ParseNormalizedNamed(b.Ref); err == nil {
		facts["registry"], facts["repository"] = reference.Domain(named), reference.Path(named)
		facts["official"] = reference.Domain(named) == "docker.io" &&
			strings.HasPrefix(reference.Path(named), "library/")
	}
	return facts
}

// targetFacts returns the fields of the variable target.
func targetFacts(t *config.Target, m *Image) map[string]any {
	facts := map[string]any{
		"name": m.Target, "tags": m.Tags, "platform": platforms.Format(m.Platform), "args": map[string]string{},
		"labels":  map[string]string{},
		"network": "", "context": "", "dockerfile": "", "secrets": []string{},
	}
	if t == nil {
		return facts
	}
	facts["network"], facts["context"], facts["dockerfile"] = t.Network, t.Context, t.Dockerfile
	if t.Args != nil {
		facts["args"] = t.Args
	}
	if t.Labels != nil {
		facts["labels"] = t.Labels
	}
	secrets := []string{}
	for _, s := range t.Secrets {
		secrets = append(secrets, s.ID)
	}
	facts["secrets"] = secrets
	return facts
}

// imageFacts returns the fields of the variable image, which describe the image config.
func imageFacts(m *Image) map[string]any {
	var c ocispecs.Image
	_ = json.Unmarshal(m.Config, &c) // cannot fail: the frontend encoded it
	labels := map[string]string{}
	maps.Copy(labels, c.Config.Labels)
	var ports []string
	for port := range c.Config.ExposedPorts {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return map[string]any{
		"user": c.Config.User, "root": isRoot(c.Config.User), "labels": labels, "env": orEmpty(c.Config.Env),
		"base":       m.Base.Ref,
		"entrypoint": orEmpty(c.Config.Entrypoint), "cmd": orEmpty(c.Config.Cmd), "workdir": c.Config.WorkingDir,
		"ports": orEmpty(ports),
	}
}

// isRoot reports whether a USER is root: by name, by number, or because it is empty.
func isRoot(user string) bool {
	user, _, _ = strings.Cut(user, ":")
	n, err := strconv.Atoi(user)
	return user == "" || user == "root" || err == nil && n == 0
}
