package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// ComposeBlock is the target of a service as text.
type ComposeBlock struct {
	Text     string   // the block
	Requires []string // variables that must be set, sorted
	Broken   []string // links that were left out: services that are no targets, sorted
}

// Block returns the target of a service under a name. link returns the name of the target of a service of the same
// file, "" if there is none.
func (c *ComposeBuilds) Block(s ComposeService, name string, link func(service string) string) ComposeBlock {
	w := composeWriter{vars: c.vars, used: c.used, requires: map[string]bool{}}
	var out ComposeBlock
	lines := fmt.Sprintf("target %s {\n", Quote(name))
	for _, a := range attributes() {
		v, ok := s.values[a.name]
		if !ok && !(a.name == "args" && len(s.unset) > 0) {
			continue
		}
		switch a.name {
		case "context", "contexts", "dockerfile", "target", "tags":
			w.naming = true
		}
		text := ""
		switch a.name {
		case "args":
			text = w.args(v, s.unset)
		case "contexts":
			text, out.Broken = w.contexts(v, link)
		case "context", "dockerfile":
			if text = w.value(v); text == map[string]string{"context": `"."`, "dockerfile": `"Dockerfile"`}[a.name] {
				text = ""
			}
		default:
			text = w.value(v)
		}
		w.naming = false
		if text != "" {
			lines += a.name + " = " + text + "\n"
		}
	}
	out.Text = string(hclwrite.Format([]byte(lines + "}\n")))
	out.Requires = slices.Sorted(maps.Keys(w.requires))
	return out
}

// Variables returns the blocks of the variables that the written targets use, sorted by name.
func (c *ComposeBuilds) Variables() []string {
	blocks := map[string]string{}
	for len(blocks) < len(c.used) { // the message of a variable may use others
		for _, name := range slices.Collect(maps.Keys(c.used)) {
			if blocks[name] == "" {
				blocks[name] = c.variable(name)
			}
		}
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		all = append(all, blocks[name])
	}
	return all
}

// variable returns the block of a variable. Its value comes from the environment of a build, or is the default.
func (c *ComposeBuilds) variable(name string) string {
	u := c.vars.uses[name]
	fallback := Quote(u.defaultOf())
	if u.optional && len(u.defaults) == 0 {
		fallback = "null"
	} else if u.defaultOf() == "" && name == "COMPOSE_PROJECT_NAME" {
		fallback = `"bake"`
	}
	text := fmt.Sprintf("variable %q {\ndefault = %s\n", name, fallback)
	if u.required != nil {
		w := composeWriter{vars: c.vars, used: c.used, requires: map[string]bool{}}
		text += fmt.Sprintf("validation {\ncondition = %s != \"\"\nerror_message = %s\n}\n", name,
			w.quoted(*u.required))
	}
	return string(hclwrite.Format([]byte(text + "}\n")))
}

// Reserved returns the variables whose names no variable of a project file can have, sorted. Their references became
// their defaults.
func (c *ComposeBuilds) Reserved() []string { return slices.Sorted(maps.Keys(c.vars.reserved)) }

// composeWriter writes values with marks as HCL, and records the variables in them.
type composeWriter struct {
	vars     *composeVariables
	used     map[string]bool
	requires map[string]bool
	naming   bool // the value is a path or a name, which would be wrong with an empty variable
}

// template returns the HCL template of a reference.
func (w *composeWriter) template(r composeReference) string {
	u := w.vars.uses[r.name]
	w.used[r.name] = true
	if u.required != nil || w.naming && r.operator == "" && u.defaultOf() == "" {
		w.requires[r.name] = true
	}
	switch {
	case strings.HasSuffix(r.operator, "+"):
		return fmt.Sprintf("${%s != \"\" ? %s : \"\"}", r.name, w.quoted(r.rest))
	case strings.HasSuffix(r.operator, "-") && r.rest != u.defaultOf():
		return fmt.Sprintf("${%s != \"\" ? %[1]s : %s}", r.name, w.quoted(r.rest))
	}
	return "${" + r.name + "}"
}

// quoted returns a string with marks as an HCL string.
func (w *composeWriter) quoted(s string) string {
	text := ""
	if rest, ok := strings.CutPrefix(s, homeMark); ok {
		s, text = rest, "${homedir()}"
	}
	w.vars.eachPart(s, func(literal string) {
		quoted := Quote(literal)
		text += quoted[1 : len(quoted)-1]
	}, func(r composeReference) {
		if strings.HasSuffix(text, "$") || strings.HasSuffix(text, "%") { // $${ would be a literal ${
			text = fmt.Sprintf("%s${%q}", text[:len(text)-1], text[len(text)-1:])
		}
		text += w.template(r)
	})
	return `"` + text + `"`
}

// value returns a value in HCL.
func (w *composeWriter) value(v cty.Value) string {
	switch t := v.Type(); {
	case t == cty.String:
		return w.quoted(v.AsString())
	case t.IsObjectType() || t.IsMapType():
		entries := map[string]string{}
		for key, value := range v.AsValueMap() {
			entries[key] = w.value(value)
		}
		return w.object(entries)
	case v.CanIterateElements():
		var items []string
		for it := v.ElementIterator(); it.Next(); {
			_, item := it.Element()
			items = append(items, w.value(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return string(hclwrite.TokensForValue(v).Bytes())
}

// args returns the build arguments. unset lists additional ones that are passed only if the variable of their name is
// set.
func (w *composeWriter) args(v cty.Value, unset []string) string {
	entries := map[string]string{}
	if v != cty.NilVal {
		for key, value := range v.AsValueMap() {
			entries[key] = w.value(value)
		}
	}
	for _, name := range unset {
		w.used[name] = true
		entries[name] = name
		u := w.vars.uses[name]
		if u.required != nil {
			w.requires[name] = true
		}
		if len(u.defaults) > 0 {
			entries[name] = fmt.Sprintf("%s != \"\" ? %[1]s : null", name)
		}
	}
	return w.object(entries)
}

// contexts returns the named contexts with the names of targets instead of services, and the services that have none.
func (w *composeWriter) contexts(v cty.Value, link func(string) string) (text string, broken []string) {
	entries := map[string]string{}
	for key, value := range v.AsValueMap() {
		service, ok := linkOf(w.vars.withDefaults(value.AsString()))
		if !ok {
			entries[key] = w.value(value)
		} else if name := link(service); name != "" {
			entries[key] = Quote(linkPrefix + name)
		} else {
			broken = append(broken, service)
		}
	}
	slices.Sort(broken)
	if len(entries) == 0 {
		return "", broken
	}
	return w.object(entries), broken
}

// linkOf returns the name of the target of a service that a context names.
func linkOf(context string) (string, bool) {
	name, ok := strings.CutPrefix(context, linkPrefix)
	if !ok {
		name, ok = strings.CutPrefix(context, types.ServicePrefix)
	}
	return strings.ReplaceAll(name, ".", "_"), ok
}

// linkPrefix is the prefix of a context that is a target.
const linkPrefix = "target:"

func (w *composeWriter) object(entries map[string]string) string {
	text := "{\n"
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		text += w.key(key) + " = " + entries[key] + "\n"
	}
	return text + "}"
}

// key returns a key of an object, in quotes unless it is a name.
func (w *composeWriter) key(key string) string {
	if variableLength(key) == len(key) && key != "" && !slices.Contains(hclNames(), key) {
		return key
	}
	return w.quoted(key)
}

// hclNames returns the names that have a meaning of their own in an expression or at the start of an object.
func hclNames() []string { return []string{"null", "true", "false", "for"} }

// Quote returns a string as an HCL string.
func Quote(s string) string { return string(hclwrite.TokensForValue(cty.StringVal(s)).Bytes()) }
