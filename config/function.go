package config

import (
	"errors"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// userFunction returns the function that a function block defines. A call evaluates its result with the parameters as
// locals.
func (s *scope) userFunction(b *block) (function.Function, hcl.Diagnostics) {
	params, diags := names(b.attrs["params"])
	variadic := ""
	if a := b.attrs["variadic_params"]; a != nil {
		if variadic = hcl.ExprAsKeyword(a.Expr); variadic == "" {
			at := a.Expr.Range()
			diags = append(diags, problem(&at, "variadic_params: expected one name"))
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
	call := func(args []cty.Value) (cty.Value, error) {
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
		return cty.DynamicVal, inFunction(diags)
	}
	spec.Type = func(args []cty.Value) (cty.Type, error) {
		v, err := call(args)
		return v.Type(), err
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) { return call(args) }
	return function.New(spec), nil
}

func anyParam(name string) function.Parameter {
	return function.Parameter{Name: name, Type: cty.DynamicPseudoType, AllowNull: true, AllowDynamicType: true}
}

// inFunction returns the first error in a function's body, with its position, as the error of the call.
func inFunction(diags hcl.Diagnostics) error {
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		if d.Subject == nil {
			return errors.New(sentence(d))
		}
		return fmt.Errorf("%s:%d: %s", d.Subject.Filename, d.Subject.Start.Line, sentence(d))
	}
	return errors.New("no value")
}

// names reads a list of names. In JSON and YAML they are strings.
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
		name := hcl.ExprAsKeyword(e)
		if name == "" {
			if v, more := e.Value(nil); !more.HasErrors() && v.Type() == cty.String {
				name = v.AsString()
			}
		}
		if name == "" {
			at := e.Range()
			diags = append(diags, problem(&at, "expected a name"))
			continue
		}
		all = append(all, name)
	}
	return all, diags
}
