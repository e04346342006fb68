package config

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// defineTargets records the blocks of every target. A target with a matrix defines several targets and a group of
// them.
func (l *loader) defineTargets() hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, d := range l.docs {
		for _, b := range d.root.blocks {
			if b.kind != "target" {
				continue
			}
			if len(l.order) > maxTargets {
				return append(diags, problem(&b.at, "more than %d targets", maxTargets))
			}
			if b.attrs["matrix"] != nil {
				diags = append(diags, l.defineMatrix(b)...)
				continue
			}
			if a := b.attrs["name"]; a != nil {
				at := a.NameRange
				diags = append(diags, problem(&at, "name needs a matrix; this target is named %q by its label",
					b.label))
			}
			l.defineTarget(b.label, targetDef{block: b})
		}
	}
	return diags
}

func (l *loader) defineTarget(name string, d targetDef) {
	if _, ok := l.defs[name]; !ok {
		l.order = append(l.order, name)
	}
	l.defs[name] = append(l.defs[name], d)
}

// members returns the members of a group as they are written.
func (l *loader) members(name string) ([]string, hcl.Diagnostics) {
	g := l.groups[name]
	if g.block == nil {
		return g.members, nil
	}
	if g.evaluated {
		return g.members, nil
	}
	a := g.block.attrs["targets"]
	if a == nil {
		return nil, hcl.Diagnostics{problem(&g.block.at, "group %s has no targets", name)}
	}
	v, diags := l.scope.eval(a.Expr, nil)
	if diags.HasErrors() {
		return nil, diags
	}
	at := a.Expr.Range()
	list, err := attribute{name: "targets", kind: kindStrings, merge: mergeRepeat}.convert(v)
	if item, ok := errors.AsType[itemError](err); ok {
		at = l.itemRange(a.Expr, item)
	}
	if err != nil && !v.IsNull() {
		return nil, hcl.Diagnostics{problem(&at, "targets: %v", err)}
	}
	names, _ := list.([]string)
	seen := map[string]bool{}
	for _, name := range names {
		if !seen[name] {
			g.members = append(g.members, name)
		}
		seen[name] = true
	}
	g.evaluated = true
	return g.members, nil
}

func (l *loader) groupDescription(name string) string {
	g := l.groups[name]
	if g.block == nil {
		return ""
	}
	text, _, _ := l.scope.text(g.block, "description")
	return text
}

// value returns an attribute of a target, merged from its parents, its own blocks and the command line, by increasing
// precedence; see attribute.combine. It is evaluated once, when it is first needed; see loader. at is the position of
// the reference to it, for diagnostics.
func (l *loader) value(name string, a attribute, at *hcl.Range) (attrValue, hcl.Diagnostics) {
	return l.valueFor(attrKey{name, a.name, name}, a, at)
}

// valueFor is like value, but self in expressions is key.self: the target for which the attribute is inherited.
func (l *loader) valueFor(key attrKey, a attribute, at *hcl.Range) (attrValue, hcl.Diagnostics) {
	name, self := key.target, key.self
	if !l.usesSelf(name, a) {
		key.self = ""
	}
	if v, ok := l.values[key]; ok {
		return v, nil
	}
	done, diags := l.scope.enter("target "+name+", "+a.name, at)
	if diags != nil {
		return attrValue{}, diags
	}
	defer done()
	var v attrValue
	if a.name != "inherits" {
		parents, diags := l.parents(name)
		if diags.HasErrors() {
			return v, diags
		}
		for _, p := range parents {
			from, diags := l.valueFor(attrKey{p, a.name, self}, a, at)
			if diags.HasErrors() {
				return v, diags
			}
			// A parent's empty list clears what it inherits itself, but not what its heirs inherit from others.
			if all, ok := from.value.([]Attrs); !ok || len(all) > 0 {
				v.merge(a, from.value, from.at)
			}
		}
	}
	own, diags := l.own(name, a, self)
	if diags.HasErrors() {
		return v, diags
	}
	v.merge(a, own.value, own.at)
	v.value, diags = l.overrideValue(name, a, v.value)
	v.value = a.normalised(v.value)
	if a.name == "entitlements" && !diags.HasErrors() {
		diags = l.hostNetwork(key, &v, at)
	}
	if !diags.HasErrors() {
		l.values[key] = v
	}
	return v, diags
}

// hostNetwork adds network.host to the entitlements of a target that uses the network of the host.
func (l *loader) hostNetwork(key attrKey, entitlements *attrValue, at *hcl.Range) hcl.Diagnostics {
	key.attribute = "network"
	network, diags := l.valueFor(key, l.schema["network"], at)
	if network.value == "host" {
		all, _ := entitlements.value.([]string)
		entitlements.value = unique(append(slices.Clone(all), "network.host"))
	}
	return diags
}

// merge combines v with a value of higher precedence. An empty description counts as not set.
func (v *attrValue) merge(a attribute, value any, at hcl.Range) {
	if a.name == "description" && value == "" {
		return
	}
	if value != nil {
		v.at = at
	}
	v.value = a.combine(v.value, value)
}

// own returns the value of an attribute in a target's own blocks.
func (l *loader) own(name string, a attribute, self string) (attrValue, hcl.Diagnostics) {
	var own attrValue
	for _, d := range l.defs[name] {
		written := d.block.attrs[a.name]
		if written == nil {
			continue
		}
		value, diags := l.evalOwn(a, written.Expr, d, self)
		if diags.HasErrors() {
			return own, diags
		}
		if !isContextReference(written.Expr) {
			value = d.block.file.rebase(a, value)
		}
		own.merge(a, value, written.NameRange)
	}
	return own, nil
}

// evalOwn evaluates an attribute in a block of a target.
func (l *loader) evalOwn(a attribute, e hcl.Expression, d targetDef, self string) (any, hcl.Diagnostics) {
	locals := l.withSelf(d.locals, self)
	eval := func(e hcl.Expression) (cty.Value, hcl.Diagnostics) { return l.scope.eval(e, locals) }
	if a.kind == kindTests {
		return testReader{a, eval}.read(e)
	}
	v, diags := eval(e)
	if diags.HasErrors() {
		return nil, diags
	}
	v, diags = l.knownKeys(a, v, e, d.block.file)
	if diags.HasErrors() || v.IsNull() {
		return nil, diags
	}
	at := e.Range()
	value, err := a.convert(v)
	if item, ok := errors.AsType[itemError](err); ok {
		at = l.itemRange(e, item)
	}
	if err != nil {
		return nil, hcl.Diagnostics{problem(&at, "%s: %v", a.name, err)}
	}
	return value, nil
}

// parents returns the names of the targets that a target inherits from directly.
func (l *loader) parents(name string) ([]string, hcl.Diagnostics) {
	v, diags := l.value(name, l.schema["inherits"], nil)
	if diags.HasErrors() {
		return nil, diags
	}
	all, _ := v.value.([]string)
	for _, p := range all {
		if _, ok := l.defs[p]; !ok {
			at := v.at
			return nil, hcl.Diagnostics{problem(&at, "target %s inherits from unknown target %q%s", name, p,
				l.nearestTarget(p))}
		}
	}
	return all, nil
}

// reference returns target.NAME for an expression, with the given attributes, or all if attrs is empty.
func (l *loader) reference(name string, attrs []string, at *hcl.Range) (cty.Value, hcl.Diagnostics) {
	if _, ok := l.defs[name]; !ok {
		return cty.DynamicVal, hcl.Diagnostics{problem(at, "unknown target %q%s", name, l.nearestTarget(name))}
	}
	if len(attrs) == 0 {
		attrs = l.schema.names()
	}
	object := map[string]cty.Value{}
	for _, attr := range attrs {
		a, ok := l.schema[attr]
		if !ok {
			return cty.DynamicVal, hcl.Diagnostics{problem(at, "unknown target attribute %q%s", attr,
				nearest(attr, l.schema.names()))}
		}
		v, diags := l.value(name, a, at)
		if diags.HasErrors() {
			return cty.DynamicVal, diags
		}
		object[attr] = toCty(v.value)
	}
	return cty.ObjectVal(object), nil
}

// resolve evaluates a target.
func (l *loader) resolve(name string) (*Target, hcl.Diagnostics) {
	t := &Target{Name: name, Ranges: map[string]Range{"": rangeOf(l.defs[name][0].block.at)}}
	diags := l.checkParents(name)
	if diags.HasErrors() {
		return t, diags
	}
	bag := map[string]any{}
	for _, a := range attributes() {
		v, more := l.value(name, a, nil)
		diags = append(diags, more...)
		if more.HasErrors() {
			continue
		}
		bag[a.name] = v.value
		if v.value != nil {
			t.Ranges[a.name] = rangeOf(v.at)
		}
	}
	t.fill(bag)
	t.implySecrets(l.opts.Env)
	t.implyOutputs()
	if !diags.HasErrors() {
		diags = append(diags, l.check(t)...)
	}
	diags = append(diags, l.expandTests(t)...)
	if defs := l.defs[name]; t.Context == "" {
		t.Context = defs[len(defs)-1].block.file.contextDir
	}
	if l.remote != nil {
		diags = append(diags, l.resolveContexts(t)...)
	}
	t.defaults(l.opts)
	return t, diags
}

// resolveContexts replaces relative contexts of a remote definition by their URLs.
func (l *loader) resolveContexts(t *Target) hcl.Diagnostics {
	var diags hcl.Diagnostics
	resolve := func(attribute, context string) string {
		at := l.attrRange(t.Name, attribute)
		if context == "" {
			context = "."
		}
		resolved, err := l.remote.resolveContext(context)
		if err != nil {
			diags = append(diags, problem(&at, "%v", err))
		}
		return resolved
	}
	t.Context = resolve("context", t.Context)
	t.Contexts = maps.Clone(t.Contexts)
	for name, context := range t.Contexts {
		t.Contexts[name] = resolve("contexts", context)
	}
	return diags
}

// get returns a value of bag, or the zero value if it is not set.
func get[T any](bag map[string]any, name string) T {
	v, _ := bag[name].(T)
	return v
}

// set returns a pointer to a value of bag, or nil if it is not set.
func set[T any](bag map[string]any, name string) *T {
	if v, ok := bag[name].(T); ok {
		return &v
	}
	return nil
}

// fill sets the fields of a target from the values of its attributes.
func (t *Target) fill(bag map[string]any) {
	t.Description = get[string](bag, "description")
	t.Context = get[string](bag, "context")
	t.Contexts = get[map[string]string](bag, "contexts")
	t.Dockerfile = get[string](bag, "dockerfile")
	t.DockerfileInline = set[string](bag, "dockerfile-inline")
	t.Stage = get[string](bag, "target")
	t.Args = get[map[string]string](bag, "args")
	t.Labels = get[map[string]string](bag, "labels")
	t.Annotations = get[[]string](bag, "annotations")
	t.Tags = get[[]string](bag, "tags")
	t.Platforms = get[[]string](bag, "platforms")
	t.Outputs = get[[]Attrs](bag, "output")
	t.CacheFrom = get[[]Attrs](bag, "cache-from")
	t.CacheTo = get[[]Attrs](bag, "cache-to")
	t.Attest = get[[]Attrs](bag, "attest")
	t.Secrets = get[[]Secret](bag, "secret")
	t.SSH = get[[]SSH](bag, "ssh")
	t.NoCache = set[bool](bag, "no-cache")
	t.NoCacheFilter = get[[]string](bag, "no-cache-filter")
	t.Pull = set[bool](bag, "pull")
	t.Network = get[string](bag, "network")
	t.ShmSize = get[string](bag, "shm-size")
	t.Ulimits = get[[]string](bag, "ulimits")
	t.ExtraHosts = get[map[string]string](bag, "extra-hosts")
	t.Resources = get[map[string]string](bag, "resources")
	t.Entitlements = get[[]string](bag, "entitlements")
	t.Call = get[string](bag, "call")
	t.Policy = get[[]Attrs](bag, "policy")
	t.Tests = get[[]Test](bag, "test")
}

// defaults sets the default context and Dockerfile. SOURCE_DATE_EPOCH of the environment becomes a build argument.
func (t *Target) defaults(o Options) {
	t.Context = cleanContext(strings.TrimPrefix(t.Context, "cwd://"))
	if t.Dockerfile == "" {
		t.Dockerfile = "Dockerfile"
	}
	if epoch := strings.TrimSpace(o.Env["SOURCE_DATE_EPOCH"]); epoch != "" {
		if _, given := t.Args["SOURCE_DATE_EPOCH"]; !given {
			args := maps.Clone(t.Args)
			if args == nil {
				args = map[string]string{}
			}
			args["SOURCE_DATE_EPOCH"] = epoch
			t.Args = args
		}
	}
}
