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

// Bounds of what a file may make this process do. They are far beyond what people write.
const (
	maxDepth   = 1000     // brackets within brackets
	maxJSON    = 2 << 20  // brackets, quotes, operators and separators in one file of JSON
	maxYAML    = 4 << 20  // the same in YAML, whose parser needs less memory
	maxPiece   = 1 << 19  // the same in one piece of HCL
	maxOps     = 10_000   // operators and brackets of one expression on the way to any part of it
	maxString  = 1 << 20  // bytes of one string
	maxValue   = 64 << 20 // bytes of all strings that one expression refers to, each as often as it stands there
	maxTargets = 10_000
)

// checkText refuses text whose parsing would need a stack or a memory without bound. It knows nothing of strings and comments,
// so that it may count more than there is, never less.
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

// manyOps says whether an expression of the text may be worth a closer look: lists have their commas, and bodies their lines.
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

// checkTokens refuses expressions that nest through their operators: a + b + c nests as deep as it is long.
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
		case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOBrace, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
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
		case hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
			hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenBang, hclsyntax.TokenQuestion, hclsyntax.TokenEqualOp,
			hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
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

// checkTemplate does as checkTokens for a string in JSON or YAML.
func checkTemplate(text string, at hcl.Range) hcl.Diagnostics {
	if len(text) <= maxOps || !strings.Contains(text, "${") && !strings.Contains(text, "%{") {
		return nil
	}
	tokens, _ := hclsyntax.LexTemplate([]byte(text), at.Filename, at.Start) // the parser tells what is wrong with them
	return checkTokens(tokens)
}

// checkJSON does as checkTokens for the strings of a file.
func checkJSON(name string, raw []byte) hcl.Diagnostics {
	d := json.NewDecoder(bytes.NewReader(raw))
	for {
		t, err := d.Token()
		if err != nil {
			return nil // the parser tells what is wrong
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

// checkStrings refuses a value with a string that is too long.
func checkStrings(v cty.Value, at hcl.Range) hcl.Diagnostics {
	if n := longest(v); n > maxString {
		return hcl.Diagnostics{problem(&at, "the value has a string of %d bytes; at most %d are allowed", n, maxString)}
	}
	return nil
}

// longest is the length of the longest string in a value.
func longest(v cty.Value) int {
	n := 0
	each(v, func(s string) { n = max(n, len(s)) })
	return n
}

// size is the length of all strings in a value, and something for each element.
func size(v cty.Value) int {
	n := 0
	each(v, func(s string) { n += len(s) + 16 })
	return n
}

// each calls f for every string in a value, and with "" for everything else in it.
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
