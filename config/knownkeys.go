package config

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// objectKeys returns the keys of the objects of an attribute, or nil if they may have any key.
func (a attribute) objectKeys() []string {
	switch a.name {
	case "secret":
		return []string{"id", "src", "env", "type", "source"}
	case "ssh":
		return []string{"id", "paths"}
	case "resources":
		return resourceNames()
	}
	return nil
}

// knownKeys returns a value without the unknown keys of its objects. In strict files they are errors; in others, which
// may be written for another tool, they are warnings, since Docker Bake ignores them.
func (l *loader) knownKeys(a attribute, v cty.Value, e hcl.Expression, file *document) (cty.Value, hcl.Diagnostics) {
	known := a.objectKeys()
	if known == nil || v.IsNull() || !v.IsKnown() {
		return v, nil
	}
	if !isObject(v) {
		items, err := elements(v)
		if err != nil || !slices.ContainsFunc(items, isObject) {
			return v, nil
		}
		var diags hcl.Diagnostics
		kept := slices.Clone(items)
		for i, item := range items {
			if isObject(item) {
				at := l.itemRange(e, itemError{index: i})
				var more hcl.Diagnostics
				kept[i], more = l.withoutUnknown(a, item, at, file)
				diags = append(diags, more...)
			}
		}
		return cty.TupleVal(kept), diags
	}
	return l.withoutUnknown(a, v, e.Range(), file)
}

func isObject(v cty.Value) bool {
	return v.IsKnown() && !v.IsNull() && (v.Type().IsObjectType() || v.Type().IsMapType())
}

// withoutUnknown removes the unknown keys of one object.
func (l *loader) withoutUnknown(a attribute, v cty.Value, at hcl.Range, file *document) (cty.Value, hcl.Diagnostics) {
	kept := map[string]cty.Value{}
	var diags hcl.Diagnostics
	for key, value := range v.AsValueMap() {
		if slices.Contains(a.objectKeys(), key) {
			kept[key] = value
			continue
		}
		d := problem(&at, "%s: unknown key %q%s", a.name, clip(key), nearest(key, a.objectKeys()))
		if !file.strict {
			d.Severity = hcl.DiagWarning
			d.Summary += "; it is ignored"
			l.warnings = append(l.warnings, d)
			continue
		}
		diags = append(diags, d)
	}
	return cty.ObjectVal(kept), diags
}
