package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// shell runs commands that are one string.
const shell = "/bin/sh"

// foldBlocks replaces nested test or config blocks by an attribute of that name. In YAML and JSON they are attributes
// already, so all syntaxes have the same representation afterwards.
func (b *block) foldBlocks() hcl.Diagnostics {
	kind := b.file.kinds[b.kind].folded
	if kind == "" {
		return nil
	}
	var list []hcl.Expression
	var rest []*block
	var at hcl.Range
	for _, inner := range b.blocks {
		if inner.kind != kind {
			rest = append(rest, inner)
			continue
		}
		if list = append(list, &blockExpr{inner}); len(list) == 1 {
			at = inner.at
		}
	}
	if len(list) == 0 {
		return nil
	}
	if old := b.attrs[kind]; old != nil {
		return hcl.Diagnostics{problem(&at, "%q is already set on line %d", kind, old.NameRange.Start.Line)}
	}
	a := &hcl.Attribute{Name: kind, NameRange: at, Range: at, Expr: &yamlExpr{at: at, items: list}}
	if !b.file.kinds[kind].labelled {
		if len(list) > 1 {
			at = list[1].Range()
			return hcl.Diagnostics{problem(&at, "duplicate %s block: a %s may have only one", kind, b.kind)}
		}
		a.Expr = list[0]
	}
	b.attrs[kind], b.blocks = a, rest
	return nil
}

// blockExpr is a block as an object expression. Its label is the attribute "name".
type blockExpr struct{ b *block }

// ExprMap returns the attributes, for hcl.ExprMap.
func (e *blockExpr) ExprMap() []hcl.KeyValuePair {
	var all []hcl.KeyValuePair
	if e.b.label != "" {
		key, label := cty.StringVal("name"), cty.StringVal(e.b.label)
		all = append(all, hcl.KeyValuePair{Key: hcl.StaticExpr(key, e.b.at), Value: hcl.StaticExpr(label, e.b.at)})
	}
	for _, name := range slices.Sorted(maps.Keys(e.b.attrs)) {
		a := e.b.attrs[name]
		all = append(all, hcl.KeyValuePair{Key: hcl.StaticExpr(cty.StringVal(name), a.NameRange), Value: a.Expr})
	}
	return all
}

// Value implements hcl.Expression.
func (e *blockExpr) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	object := map[string]cty.Value{}
	var diags hcl.Diagnostics
	for _, pair := range e.ExprMap() {
		key, _ := pair.Key.Value(nil)
		v, more := pair.Value.Value(ctx)
		diags = append(diags, more...)
		object[key.AsString()] = v
	}
	return cty.ObjectVal(object), diags
}

// Variables implements hcl.Expression.
func (e *blockExpr) Variables() []hcl.Traversal {
	var all []hcl.Traversal
	for _, a := range e.b.attrs {
		all = append(all, a.Expr.Variables()...)
	}
	return all
}

// Range implements hcl.Expression.
func (e *blockExpr) Range() hcl.Range { return e.b.at }

// StartRange implements hcl.Expression.
func (e *blockExpr) StartRange() hcl.Range { return e.b.at }

// testReader evaluates the attribute "test" of a target.
type testReader struct {
	a    attribute
	eval func(hcl.Expression) (cty.Value, hcl.Diagnostics)
}

// read evaluates each test separately, so that each has its own position.
func (r testReader) read(e hcl.Expression) (any, hcl.Diagnostics) {
	tests := []Test{}
	var ranges []hcl.Range
	var diags hcl.Diagnostics
	add := func(one hcl.Expression, name string) {
		more, errs := r.one(one, name)
		diags = append(diags, errs...)
		tests = append(tests, more...)
		for range more {
			ranges = append(ranges, one.Range())
		}
	}
	if list, no := hcl.ExprList(e); !no.HasErrors() {
		for _, one := range list {
			add(one, "")
		}
	} else if pairs, no := hcl.ExprMap(e); !no.HasErrors() && !isOneTest(pairs) {
		for _, p := range pairs {
			add(p.Value, keyOf(p.Key))
		}
	} else {
		add(e, "")
	}
	seen := map[string]bool{}
	for i, t := range tests {
		if seen[t.Name] && !diags.HasErrors() {
			diags = append(diags, problem(&ranges[i], "duplicate test %q in the target", t.Name))
		}
		seen[t.Name] = true
	}
	return tests, diags
}

// isOneTest reports whether an object is one test rather than a mapping from names to tests: it has one of the
// attributes of testSubjects, and that is not itself a test with such a name.
func isOneTest(pairs []hcl.KeyValuePair) bool {
	all := testSubjects()
	return slices.ContainsFunc(pairs, func(p hcl.KeyValuePair) bool {
		_, ok := all[keyOf(p.Key)]
		inner, no := hcl.ExprMap(p.Value)
		return ok && (no.HasErrors() || keyOf(p.Key) == "config" && !isOneTest(inner))
	})
}

// keyOf returns the name of a key in an object expression, or "".
func keyOf(e hcl.Expression) string {
	v, diags := e.Value(&hcl.EvalContext{})
	if diags.HasErrors() || v.IsNull() || !v.IsKnown() {
		return hcl.ExprAsKeyword(e)
	}
	s, err := asString(v)
	if err != nil {
		return ""
	}
	return s
}

// one reads one element: an object, a string KEY=VALUE,KEY=VALUE, or an expression whose value may be several of them.
func (r testReader) one(e hcl.Expression, name string) ([]Test, hcl.Diagnostics) {
	at := e.Range()
	fields, ok, diags := r.fields(e)
	if ok {
		if diags.HasErrors() {
			return nil, diags
		}
		if name != "" {
			fields = append(fields, field{"name", at, cty.StringVal(name)})
		}
		t, diags := newTest(fields, at)
		return []Test{t}, diags
	}
	v, diags := r.eval(e)
	if diags.HasErrors() || v.IsNull() {
		return nil, diags
	}
	items, err := elements(v)
	var tests []Test
	for _, item := range items {
		var lists [][]field
		if lists, err = r.values(item, at); err != nil {
			break
		}
		for _, fields := range lists {
			t, more := newTest(fields, at)
			diags = append(diags, more...)
			tests = append(tests, t)
		}
	}
	if err != nil {
		diags = append(diags, problem(&at, "test: %v", err))
	}
	return tests, diags
}

// fields evaluates the attributes of an object expression. ok is false for other expressions.
func (r testReader) fields(e hcl.Expression) ([]field, bool, hcl.Diagnostics) {
	pairs, no := hcl.ExprMap(e)
	if no.HasErrors() {
		return nil, false, nil
	}
	var all []field
	var diags hcl.Diagnostics
	for _, p := range pairs {
		v, more := r.eval(p.Value)
		diags = append(diags, more...)
		all = append(all, field{keyOf(p.Key), p.Key.Range(), v})
	}
	return all, true, diags
}

// values returns the attributes of each test in an evaluated element.
func (r testReader) values(v cty.Value, at hcl.Range) ([][]field, error) {
	if t := v.Type(); t.IsObjectType() || t.IsMapType() {
		return [][]field{fieldsOf(v, at)}, nil
	}
	if v.IsNull() {
		return nil, nil
	}
	lists, err := r.a.attrs(v)
	var all [][]field
	for _, m := range lists {
		all = append(all, fieldsOf(stringMap(m), at))
	}
	return all, err
}

func fieldsOf(v cty.Value, at hcl.Range) []field {
	var all []field
	values := v.AsValueMap()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all = append(all, field{name, at, values[name]})
	}
	return all
}

// testsOf converts KEY=VALUE lists, as in --set, to tests.
func testsOf(lists []Attrs) ([]Test, error) {
	var all []Test
	for _, m := range lists {
		t, diags := newTest(fieldsOf(stringMap(m), hcl.Range{}), hcl.Range{})
		if diags.HasErrors() {
			return nil, fmt.Errorf("%s", sentence(diags[0]))
		}
		all = append(all, t)
	}
	return all, nil
}

// asCommand converts a list of arguments, or one string for the shell, to a command.
func asCommand(v cty.Value) ([]string, error) {
	if v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
		return []string{shell, "-c", v.AsString()}, nil
	}
	list, err := attribute{merge: mergeRepeat}.strings(v)
	argv, _ := list.([]string)
	return argv, err
}

func asCommands(v cty.Value) ([][]string, error) {
	items, err := elements(v)
	if err != nil {
		return nil, err
	}
	var all [][]string
	for _, item := range items {
		argv, err := asCommand(item)
		if err != nil {
			return nil, err
		}
		all = append(all, argv)
	}
	return all, nil
}

// asConfig converts an object to the config of a test.
func asConfig(v cty.Value) (*ConfigCheck, error) {
	if t := v.Type(); !v.IsKnown() || !t.IsObjectType() && !t.IsMapType() {
		return nil, fmt.Errorf("expected an object, got %s", friendlyType(v))
	}
	c, diags := configCheckOf(fieldsOf(v, hcl.Range{}))
	if diags.HasErrors() {
		return nil, fmt.Errorf("%s", sentence(diags[0]))
	}
	return c, nil
}

// printed returns a test as an object for a project file.
func (t Test) printed() map[string]any {
	m := map[string]any{"name": escape(t.Name)}
	put := func(name string, v any, set bool) {
		if set {
			m[name] = v
		}
	}
	put("command", escaped(t.Command), len(t.Command) > 0)
	var setup [][]string
	for _, c := range t.Setup {
		setup = append(setup, escaped(c))
	}
	put("setup", setup, len(setup) > 0)
	put("env", escapedMap(t.Env), len(t.Env) > 0)
	put("user", escape(t.User), t.User != "")
	put("exit-code", strconv.Itoa(t.ExitCode), t.ExitCode != 0)
	t.Stdout.print("stdout", put)
	t.Stderr.print("stderr", put)
	put("file", escape(t.File), t.File != "")
	put("exists", false, t.Absent)
	put("mode", t.Mode, t.Mode != "")
	put("owner", escape(t.Owner), t.Owner != "")
	put("executable-by", t.ExecutableBy, t.ExecutableBy != "")
	t.Content.print("content", put)
	put("structure", escape(t.Structure), t.Structure != "")
	if t.Config != nil {
		m["config"] = t.Config.printed()
	}
	return m
}

func (w TextCheck) print(name string, put func(string, any, bool)) {
	if w.Exact != nil {
		put(name, escape(*w.Exact), true)
	}
	put(name+"-contains", escaped(w.Contains), len(w.Contains) > 0)
	put(name+"-matches", escaped(w.Matches), len(w.Matches) > 0)
	put(name+"-excludes", escaped(w.Excludes), len(w.Excludes) > 0)
}

func (c *ConfigCheck) printed() map[string]any {
	m := map[string]any{}
	for name, s := range map[string]*string{"user": c.User, "workdir": c.Workdir} {
		if s != nil {
			m[name] = escape(*s)
		}
	}
	for name, list := range map[string][]string{
		"entrypoint": c.Entrypoint, "cmd": c.Cmd, "no-env": c.NoEnv, "ports": c.Ports, "no-ports": c.NoPorts,
		"volumes": c.Volumes, "no-volumes": c.NoVolumes,
	} {
		if list != nil {
			m[name] = escaped(list)
		}
	}
	for name, all := range map[string]map[string]string{
		"env": c.Env, "env-matches": c.EnvMatches, "labels": c.Labels, "labels-match": c.LabelMatches,
	} {
		if all != nil {
			m[name] = escapedMap(all)
		}
	}
	return m
}

// testsToCty converts tests for expressions.
func testsToCty(tests []Test) cty.Value {
	all := make([]cty.Value, 0, len(tests))
	for _, t := range tests {
		raw, err := json.Marshal(t.printed())
		if err != nil {
			return cty.DynamicVal
		}
		typ, err := ctyjson.ImpliedType(raw)
		if err != nil {
			return cty.DynamicVal
		}
		v, err := ctyjson.Unmarshal(raw, typ)
		if err != nil {
			return cty.DynamicVal
		}
		all = append(all, v)
	}
	return cty.TupleVal(all)
}
