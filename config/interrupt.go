package config

import (
	"context"
	"fmt"
	"runtime"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// An evaluation that reached its limit must end, or its goroutine would run, and allocate, for as long as the process
// lives. HCL has no way to interrupt an expression, and only loops can take long. So each body of a loop is wrapped in
// a call of a function that ends the goroutine once the context has ended. A call is a node like any other: variables
// in its argument are found, and errors in it are reported as before.
//
// The invariant: every expression with a loop goes through interruptible before it is evaluated, in HCL when a piece is
// parsed, in YAML and JSON when a template is. TestLoadLeavesNothingBehind has a loop in each.

// loopFunction is the name of the function. It is no identifier, so project files cannot call it.
const loopFunction = "for each"

// newLoopFunction returns the function, which returns its argument.
func newLoopFunction(ctx context.Context) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{
			Name: "value", Type: cty.DynamicPseudoType,
			AllowNull: true, AllowUnknown: true, AllowDynamicType: true, AllowMarked: true,
		}},
		Type: func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			endIfDone(ctx)
			return args[0], nil
		},
	})
}

// endIfDone ends the goroutine of an evaluation whose context has ended. Its deferred calls run.
func endIfDone(ctx context.Context) {
	if ctx.Err() != nil {
		runtime.Goexit()
	}
}

// maxCombinations bounds the result of setproduct, the one built-in function whose result is much larger than its
// arguments.
const maxCombinations = 1 << 20

// boundedProduct returns setproduct with a bound, because a call of a function cannot be interrupted.
func boundedProduct() function.Function {
	product := stdlib.SetProductFunc
	list := *product.VarParam()
	return function.New(&function.Spec{
		Description: product.Description(), VarParam: &list,
		Type: func(args []cty.Value) (cty.Type, error) {
			combinations := 1
			for _, a := range args {
				if !a.IsKnown() || a.IsNull() || !a.CanIterateElements() {
					continue // setproduct reports it
				}
				if combinations *= a.LengthInt(); combinations > maxCombinations {
					return cty.DynamicPseudoType, fmt.Errorf("more than %d combinations", maxCombinations)
				}
			}
			return product.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return product.Call(args) },
	})
}

// interruptible wraps the bodies of all loops below a node.
func interruptible(n hclsyntax.Node) {
	_ = hclsyntax.VisitAll(n, func(n hclsyntax.Node) hcl.Diagnostics {
		switch e := n.(type) {
		case *hclsyntax.ForExpr:
			e.ValExpr = loopBody(e.ValExpr)
			if e.CondExpr != nil { // it may refuse every element
				e.CondExpr = loopBody(e.CondExpr)
			}
		case *hclsyntax.SplatExpr:
			e.Each = loopBody(e.Each)
		}
		return nil
	})
}

func loopBody(e hclsyntax.Expression) hclsyntax.Expression {
	at := e.Range()
	return &hclsyntax.FunctionCallExpr{
		Name: loopFunction, Args: []hclsyntax.Expression{e}, NameRange: at, OpenParenRange: at, CloseParenRange: at,
	}
}

// parseTemplate parses a string of a YAML or JSON file.
func parseTemplate(text, file string, start hcl.Pos) (hclsyntax.Expression, hcl.Diagnostics) {
	e, diags := hclsyntax.ParseTemplate([]byte(text), file, start)
	if !diags.HasErrors() {
		interruptible(e)
	}
	return e, diags
}

// interruptibleJSON makes the expressions of attributes of a JSON file interruptible.
func interruptibleJSON(attrs hcl.Attributes) hcl.Attributes {
	for _, a := range attrs {
		a.Expr = jsonExpr{a.Expr}
	}
	return attrs
}

// jsonExpr is an expression of a JSON file. It evaluates like hcl's, except that loops in its strings can be
// interrupted.
type jsonExpr struct{ hcl.Expression }

// UnwrapExpression lets hcl find what else the expression can do.
func (e jsonExpr) UnwrapExpression() hcl.Expression { return e.Expression }

// ExprList returns the elements of an array; nil for another value.
func (e jsonExpr) ExprList() []hcl.Expression {
	list, diags := hcl.ExprList(e.Expression)
	if diags.HasErrors() {
		return nil
	}
	for i := range list {
		list[i] = jsonExpr{list[i]}
	}
	return list
}

// ExprMap returns the members of an object; nil for another value.
func (e jsonExpr) ExprMap() []hcl.KeyValuePair {
	pairs, diags := hcl.ExprMap(e.Expression)
	if diags.HasErrors() {
		return nil
	}
	for i, p := range pairs {
		pairs[i] = hcl.KeyValuePair{Key: jsonExpr{p.Key}, Value: jsonExpr{p.Value}}
	}
	return pairs
}

// Value implements hcl.Expression. Without a context, strings are returned as they are.
func (e jsonExpr) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if ctx == nil {
		return e.Expression.Value(nil)
	}
	if list := e.ExprList(); list != nil {
		var diags hcl.Diagnostics
		values := make([]cty.Value, len(list))
		for i, element := range list {
			v, more := element.Value(ctx)
			values[i], diags = v, append(diags, more...)
		}
		return cty.TupleVal(values), diags
	}
	if pairs := e.ExprMap(); pairs != nil {
		return e.object(ctx, pairs)
	}
	text, diags := e.Expression.Value(nil)
	if diags.HasErrors() || text.IsNull() || text.Type() != cty.String {
		return e.Expression.Value(ctx)
	}
	at := e.Range()
	start := hcl.Pos{Line: at.Start.Line, Column: at.Start.Column + 1, Byte: at.Start.Byte + 1} // after the quote
	template, diags := parseTemplate(text.AsString(), at.Filename, start)
	if diags.HasErrors() {
		return cty.DynamicVal, diags
	}
	v, more := template.Value(ctx)
	return v, append(diags, more...)
}

// object evaluates an object. Keys that are not plain, known and distinct are left to hcl, which explains the error.
func (e jsonExpr) object(ctx *hcl.EvalContext, pairs []hcl.KeyValuePair) (cty.Value, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	values := make(map[string]cty.Value, len(pairs))
	for _, p := range pairs {
		key, more := p.Key.Value(ctx)
		diags = append(diags, more...)
		v, more := p.Value.Value(ctx)
		diags = append(diags, more...)
		if diags.HasErrors() {
			return cty.DynamicVal, diags
		}
		key, err := convert.Convert(key, cty.String)
		if err != nil || key.IsNull() || !key.IsKnown() || key.IsMarked() {
			return e.Expression.Value(ctx)
		}
		if _, twice := values[key.AsString()]; twice {
			return e.Expression.Value(ctx)
		}
		values[key.AsString()] = v
	}
	return cty.ObjectVal(values), diags
}
