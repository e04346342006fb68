package config

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// userFunction returns the function that a function block defines. A call evaluates its result with the parameters as
// locals.
func (s *scope) userFunction(b *block) (function.Function, hcl.Diagnostics) {
	params, diags := names(b.attrs["params"])
	variadic := ""
	if a := b.attrs["variadic_params"]; a != nil {
		if variadic = parameterName(a.Expr); variadic == "" {
			at := a.Expr.Range()
			diags = append(diags, problem(&at, "variadic_params: expected one name, such as variadic_params = rest"))
		}
	}
	result := b.attrs["result"]
	if result == nil {
		diags = append(diags, problem(&b.at, "function %s has no result", b.label))
	}
	if diags.HasErrors() {
		return function.Function{}, diags
	}
	spec := &function.Spec{}
	for _, p := range params {
		spec.Params = append(spec.Params, anyParam(p))
	}
	if variadic != "" {
		v := anyParam(variadic)
		spec.VarParam = &v
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		locals := map[string]cty.Value{}
		for i, p := range params {
			locals[p] = args[i]
		}
		if variadic != "" {
			locals[variadic] = cty.TupleVal(args[len(params):])
		}
		at := result.Expr.Range()
		done, diags := s.enter("function "+b.label, &at)
		if diags == nil {
			defer done()
			var v cty.Value
			if v, diags = s.eval(result.Expr, locals); !diags.HasErrors() {
				return v, nil
			}
		}
		return cty.DynamicVal, &bodyError{b.label, diags}
	}
	// Only evaluation gives the type of the result. A Type that evaluated too would double the work at each level of
	// functions that call functions.
	spec.Type = function.StaticReturnType(cty.DynamicPseudoType)
	return function.New(spec), nil
}

func anyParam(name string) function.Parameter {
	return function.Parameter{Name: name, Type: cty.DynamicPseudoType, AllowNull: true, AllowDynamicType: true}
}

// names reads a list of names.
func names(a *hcl.Attribute) ([]string, hcl.Diagnostics) {
	if a == nil {
		return nil, nil
	}
	list, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		return nil, diags
	}
	var all []string
	for _, e := range list {
		name := parameterName(e)
		if name == "" {
			at := e.Range()
			diags = append(diags, problem(&at, "a parameter must be a name, without quotes, such as params = [a, b]"))
			continue
		}
		all = append(all, name)
	}
	return all, diags
}

// parameterName returns the name that an expression is, or "". In JSON and YAML it is a string.
func parameterName(e hcl.Expression) string {
	if name := hcl.ExprAsKeyword(e); name != "" {
		return name
	}
	if _, native := e.(hclsyntax.Expression); native {
		return ""
	}
	v, diags := e.Value(nil)
	if diags.HasErrors() || v.IsNull() || v.Type() != cty.String || !hclsyntax.ValidIdentifier(v.AsString()) {
		return ""
	}
	return v.AsString()
}
