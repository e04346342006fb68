package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// bodyError is the error of a call whose function body has errors. HCL passes it through; unfold restores the
// diagnostics, so that they show the line in the body.
type bodyError struct {
	function string
	diags    hcl.Diagnostics
}

// Error returns the first error.
func (e *bodyError) Error() string {
	for _, d := range e.diags {
		if d.Severity == hcl.DiagError {
			return sentence(d)
		}
	}
	return "no value"
}

// explained replaces the diagnostics of failed calls by those of the function bodies, each with the place of the call,
// and names the variables that are null in diagnostics about null.
func explained(diags hcl.Diagnostics) hcl.Diagnostics {
	var all hcl.Diagnostics
	for _, d := range diags {
		extra, ok := hcl.DiagnosticExtra[hclsyntax.FunctionCallDiagExtra](d)
		if ok {
			if body, inner := errors.AsType[*bodyError](extra.FunctionCallError()); inner {
				all = append(all, body.calledAt(d.Subject)...)
				continue
			}
		}
		all = append(all, withNulls(d))
	}
	return all
}

// calledAt returns the diagnostics of the body with the place of the call.
func (e *bodyError) calledAt(at *hcl.Range) hcl.Diagnostics {
	var all hcl.Diagnostics
	for _, d := range e.diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		called := *d
		called.Summary, called.Detail = sentence(d), ""
		place := ""
		switch {
		case at == nil:
		case d.Subject != nil && d.Subject.Filename == at.Filename:
			place = fmt.Sprintf(", called on line %d", at.Start.Line)
		default:
			place = fmt.Sprintf(", called at %s:%d", at.Filename, at.Start.Line)
		}
		called.Summary += fmt.Sprintf(" (in function %q%s)", e.function, place)
		all = append(all, &called)
	}
	return all
}

// withNulls adds the names of the variables that are null to a diagnostic about null.
func withNulls(d *hcl.Diagnostic) *hcl.Diagnostic {
	if d.Expression == nil || d.EvalContext == nil || !strings.Contains(d.Detail, "null") {
		return d
	}
	var names []string
	for _, t := range d.Expression.Variables() {
		v, diags := t.TraverseAbs(d.EvalContext)
		name := pathOf(t)
		if !diags.HasErrors() && v.IsNull() && !strings.Contains(d.Detail, name+" is null") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return d
	}
	named := *d
	verb := " is null"
	if names = unique(names); len(names) > 1 {
		verb = " are null"
	}
	named.Detail = strings.TrimSuffix(named.Detail, ".") + "; " + strings.Join(names, ", ") + verb
	return &named
}

// pathOf returns a reference as it is written, such as a.b; indexes are left out.
func pathOf(t hcl.Traversal) string {
	name := t.RootName()
	for _, step := range t[1:] {
		if attr, ok := step.(hcl.TraverseAttr); ok {
			name += "." + attr.Name
		}
	}
	return name
}
