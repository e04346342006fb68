package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Bounds on parsing and evaluation. They are far above the needs of real projects.
//
// A project file may come from a remote repository, and a parser that exhausts the stack cannot be recovered. So
// depth and size are checked on the text before a parser sees it. checkText ignores strings and comments, and may
// therefore count too much but never too little. Loops are bounded from outside instead; see runBounded. TestBombs
// has a file for each bound.
const (
	maxDepth   = 1000     // nested brackets
	maxJSON    = 2 << 20  // brackets, quotes, operators and separators in a JSON file
	maxYAML    = 4 << 20  // the same in a YAML file, whose parser needs less memory
	maxPiece   = 1 << 19  // the same in a piece of an HCL file; see parseNative
	maxOps     = 10_000   // operators and brackets on the path to any part of one expression
	maxString  = 1 << 20  // bytes of one string value
	maxValue   = 64 << 20 // bytes of all strings used in one expression, counted once per reference
	maxTargets = 10_000
)

// checkText rejects text whose parsing would need unbounded stack or memory: more than maxDepth nested brackets, or
// more than most brackets, quotes, operators and separators. from is the position of the text in the file.
func checkText(name string, raw []byte, from hcl.Pos, most int) hcl.Diagnostics {
	depth, signs, line, lineStart := 0, 0, from.Line, 0
	for i, c := range raw {
		switch c {
		case '(', '[', '{':
			depth++
			signs++
		case ')', ']', '}':
			depth = max(0, depth-1)
		case '!', '-', '?', '+', '*', '/', '%', '<', '>', '=', '&', '|', ',', '.', ':', '"':
			signs++
		case '\n':
			line, lineStart = line+1, i+1
			signs++
		}
		what := ""
		switch {
		case depth > maxDepth:
			what = fmt.Sprintf("more than %d nested brackets", maxDepth)
		case signs > most:
			what = fmt.Sprintf(
				"more than %d brackets, quotes, operators and separators; split the file or the block", most)
		}
		if what != "" {
			pos := hcl.Pos{Line: line, Column: i - lineStart + 1, Byte: from.Byte + i}
			return hcl.Diagnostics{problem(&hcl.Range{Filename: name, Start: pos, End: pos}, "%s", what)}
		}
	}
	return nil
}

// manyOps reports whether the text has so many operators and brackets that one expression may have more than maxOps.
// Only then checkTokens is worth its cost.
func manyOps(text []byte) bool {
	n := 0
	for _, c := range text {
		switch c {
		case '(', '[', '{', '!', '-', '?', '+', '*', '/', '%', '<', '>', '=', '&', '|':
			if n++; n > maxOps {
				return true
			}
		}
	}
	return false
}

// checkTokens rejects expressions that nest too deeply through operators: the syntax tree of a + b + c is as deep as
// the expression is long. The count of operators restarts at each comma and, in a body, at each line.
func checkTokens(tokens hclsyntax.Tokens) hcl.Diagnostics {
	counts := []int{0} // operators so far, for each open bracket
	braces := []bool{true}
	total := 0
	reset := func() {
		total -= counts[len(counts)-1]
		counts[len(counts)-1] = 0
	}
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOBrace, hclsyntax.TokenTemplateInterp,
			hclsyntax.TokenTemplateControl:
			counts[len(counts)-1]++
			total++
			counts, braces = append(counts, 0), append(braces, t.Type == hclsyntax.TokenOBrace)
		case hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCBrace, hclsyntax.TokenTemplateSeqEnd:
			if len(counts) > 1 {
				reset()
				counts, braces = counts[:len(counts)-1], braces[:len(braces)-1]
			}
		case hclsyntax.TokenComma:
			reset()
		case hclsyntax.TokenNewline:
			if braces[len(braces)-1] {
				reset()
			}
		case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash,
			hclsyntax.TokenPercent,
			hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenBang, hclsyntax.TokenQuestion, hclsyntax.TokenEqualOp,
			hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan,
			hclsyntax.TokenGreaterThanEq:
			counts[len(counts)-1]++
			total++
		}
		if total > maxOps {
			at := t.Range
			return hcl.Diagnostics{problem(&at, "more than %d operators in one expression", maxOps)}
		}
	}
	return nil
}

// checkTemplate is checkTokens for a string in JSON or YAML.
func checkTemplate(text string, at hcl.Range) hcl.Diagnostics {
	if len(text) <= maxOps || !strings.Contains(text, "${") && !strings.Contains(text, "%{") {
		return nil
	}
	tokens, _ := hclsyntax.LexTemplate([]byte(text), at.Filename, at.Start) // the parser reports errors in them
	return checkTokens(tokens)
}

// checkJSON is checkTokens for the strings of a JSON file.
func checkJSON(name string, raw []byte) hcl.Diagnostics {
	d := json.NewDecoder(bytes.NewReader(raw))
	for {
		t, err := d.Token()
		if err != nil {
			return nil // the parser reports the error
		}
		if s, ok := t.(string); ok && len(s) > maxOps {
			end := min(int(d.InputOffset()), len(raw))
			pos := hcl.Pos{Line: 1 + bytes.Count(raw[:end], []byte("\n")), Column: 1, Byte: end}
			if diags := checkTemplate(s, hcl.Range{Filename: name, Start: pos, End: pos}); diags.HasErrors() {
				return diags
			}
		}
	}
}

// checkStrings rejects a value with a string of more than maxString bytes.
func checkStrings(v cty.Value, at hcl.Range) hcl.Diagnostics {
	if n := longest(v); n > maxString {
		return hcl.Diagnostics{problem(&at, "the value has a string of %d bytes; at most %d are allowed", n, maxString)}
	}
	return nil
}

// longest returns the length of the longest string in a value.
func longest(v cty.Value) int {
	n := 0
	each(v, func(s string) { n = max(n, len(s)) })
	return n
}

// size returns the total length of the strings in a value, plus 16 for each element.
func size(v cty.Value) int {
	n := 0
	each(v, func(s string) { n += len(s) + 16 })
	return n
}

// each calls f for every string in a value, keys included, and with "" for every other element.
func each(v cty.Value, f func(string)) {
	switch {
	case v == cty.NilVal || !v.IsKnown() || v.IsNull() || v.IsMarked():
		f("")
	case v.Type() == cty.String:
		f(v.AsString())
	case v.CanIterateElements():
		f("")
		for it := v.ElementIterator(); it.Next(); {
			key, element := it.Element()
			if key.Type() == cty.String {
				f(key.AsString())
			}
			each(element, f)
		}
	default:
		f("")
	}
}
