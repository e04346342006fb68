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

	"cel.dev/cel-go/cel"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// maxPolicyCost bounds what one evaluation of a rule may take, in CEL's units.
const maxPolicyCost = 1_000_000

// Violation is a rule that does not hold for something.
type Violation struct {
	Policy  string
	Subject string // "base docker.io/library/alpine:latest" or "target api (linux/amd64)"
	Message string
	Places  []Location // of a rule about bases: the lines of Dockerfiles that name the base
	Warn    bool       // it stops nothing
	Range   config.Range
}

// String is "policy NAME: SUBJECT: MESSAGE (FILE:LINE)", with at most three places.
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

// PolicyError is a rule that cannot be evaluated.
type PolicyError struct {
	Policy string
	Range  config.Range
	Err    error
}

// Error names the place and the reason.
func (e *PolicyError) Error() string {
	return fmt.Sprintf("%spolicy %s: %v", place(e.Range.File, e.Range.Line), e.Policy, e.Err)
}

// Unwrap gives the reason.
func (e *PolicyError) Unwrap() error { return e.Err }

// CheckPolicies evaluates the rules of a project on what a graph stands on and makes. A rule that speaks of base holds for
// each base, one that speaks of target or image for each image, and one of both for each base of each target; one of neither is
// evaluated once, so that it cannot pass by not being looked at. The error is a PolicyError.
func (g *Graph) CheckPolicies(p *config.Project) ([]Violation, error) {
	if len(p.Policies) == 0 {
		return nil, nil
	}
	env, err := cel.NewEnv(cel.Variable("base", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("target", cel.MapType(cel.StringType, cel.DynType)), cel.Variable("image", cel.MapType(cel.StringType, cel.DynType)))
	if err != nil {
		return nil, fmt.Errorf("prepare policies: %w", err)
	}
	var all []Violation
	for _, name := range slices.Sorted(maps.Keys(p.Policies)) {
		one := p.Policies[name]
		found, err := g.checkPolicy(env, p, one)
		if err != nil {
			return nil, &PolicyError{name, one.Range, err}
		}
		all = append(all, found...)
	}
	return all, nil
}

func (g *Graph) checkPolicy(env *cel.Env, p *config.Project, policy config.Policy) ([]Violation, error) {
	ast, issues := env.Compile(policy.Rule)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	if !ast.OutputType().IsExactType(cel.BoolType) && !ast.OutputType().IsExactType(cel.DynType) {
		return nil, fmt.Errorf("the rule is a %s, and must be true or false", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(maxPolicyCost))
	if err != nil {
		return nil, err
	}
	of := map[string]bool{}
	for _, r := range ast.NativeRep().ReferenceMap() {
		of[r.Name] = true
	}
	var found []Violation
	for _, s := range g.subjects(p, of["base"], of["target"] || of["image"]) {
		value, _, err := program.Eval(s.vars)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		holds, ok := value.Value().(bool)
		if !ok {
			return nil, errors.New("the rule must be true or false")
		}
		if !holds {
			message := cmp.Or(policy.Message, "the rule does not hold: "+policy.Rule)
			found = append(found, Violation{policy.Name, s.name, message, s.places, policy.Warn, policy.Range})
		}
	}
	return found, nil
}

// subject is what a rule is evaluated on.
type subject struct {
	name   string
	places []Location
	vars   map[string]any
}

// subjects are the bases, the images, or each base with the images that use it, be it through targets that they link to.
func (g *Graph) subjects(p *config.Project, bases, images bool) []subject {
	var list []subject
	for _, b := range g.Bases {
		if bases && !images {
			list = append(list, subject{"base " + b.Ref, b.Places, map[string]any{"base": g.baseFacts(b), "target": map[string]any{}, "image": map[string]any{}}})
		}
	}
	if !bases && !images {
		return []subject{{name: "the project", vars: map[string]any{}}}
	}
	if !images {
		return list
	}
	users := map[string][]string{} // of bases, by reference
	for _, b := range g.Bases {
		if bases {
			users[b.Ref] = g.Users(b.Ref)
		}
	}
	for _, m := range g.Images {
		name := fmt.Sprintf("target %s (%s)", m.Target, platforms.Format(m.Platform))
		vars := func(base map[string]any) map[string]any {
			return map[string]any{"base": base, "target": targetFacts(p.Targets[m.Target], m), "image": imageFacts(m)}
		}
		if !bases {
			list = append(list, subject{name, nil, vars(map[string]any{})})
			continue
		}
		for _, b := range g.Bases {
			if slices.Contains(users[b.Ref], m.Target) {
				list = append(list, subject{name + ", base " + b.Ref, b.Places, vars(g.baseFacts(b))})
			}
		}
	}
	return list
}

// baseFacts is what a rule can ask of a base.
func (g *Graph) baseFacts(b BaseUse) map[string]any {
	written := strings.Contains(b.Ref, "@")
	facts := map[string]any{
		"ref": b.Ref, "digest": b.Digest.String(), "locked": b.Locked || written, "written": written, "targets": b.Targets,
		"registry": "", "repository": "", "tag": "", "official": false, "from": b.From, "platforms": append([]string{}, b.Platforms...),
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
		facts["official"] = reference.Domain(named) == "docker.io" && strings.HasPrefix(reference.Path(named), "library/")
	}
	return facts
}

// targetFacts is what a rule can ask of a target.
func targetFacts(t *config.Target, m *Image) map[string]any {
	facts := map[string]any{
		"name": m.Target, "tags": m.Tags, "platform": platforms.Format(m.Platform), "args": map[string]string{}, "labels": map[string]string{},
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

// imageFacts is what a rule can ask of an image's config.
func imageFacts(m *Image) map[string]any {
	var c ocispecs.Image
	_ = json.Unmarshal(m.Config, &c) // the front end wrote it
	orEmpty := func(list []string) []string { return append([]string{}, list...) }
	labels := map[string]string{}
	maps.Copy(labels, c.Config.Labels)
	var ports []string
	for port := range c.Config.ExposedPorts {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return map[string]any{
		"user": c.Config.User, "root": isRoot(c.Config.User), "labels": labels, "env": orEmpty(c.Config.Env), "base": m.Base.Ref,
		"entrypoint": orEmpty(c.Config.Entrypoint), "cmd": orEmpty(c.Config.Cmd), "workdir": c.Config.WorkingDir, "ports": orEmpty(ports),
	}
}

// isRoot says whether a USER is root: by name, by number, or by not being said.
func isRoot(user string) bool {
	user, _, _ = strings.Cut(user, ":")
	n, err := strconv.Atoi(user)
	return user == "" || user == "root" || err == nil && n == 0
}
