package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Bounds of what a file may make this process do. They are far beyond what people write.
const (
	maxDepth   = 1000     // brackets within brackets
	maxSigns   = 2 << 20  // brackets, operators and separators in one file
	maxRun     = 1000     // operators in a row that bind to the right: !!!x, a ? b : c ? d : e
	maxString  = 1 << 20  // bytes of one string
	maxValue   = 64 << 20 // bytes of all strings that one expression refers to, each as often as it stands there
	maxTargets = 10_000
)

// checkText refuses text whose parsing would need a stack or a memory without bound. It knows nothing of strings and comments,
// so that it may count more than there is, never less.
func checkText(name string, raw []byte) hcl.Diagnostics {
	depth, signs, run, line, lineStart := 0, 0, 0, 1, 0
	for i, c := range raw {
		switch c {
		case '(', '[', '{':
			depth++
			signs++
		case ')', ']', '}':
			depth = max(0, depth-1)
		case '!', '-', '?':
			run++
			signs++
		case '+', '*', '/', '%', '<', '>', '=', '&', '|', ',', '.', ':', '"':
			signs++
		case '\n':
			line, lineStart, run = line+1, i+1, 0
			signs++
		}
		what := ""
		switch {
		case depth > maxDepth:
			what = fmt.Sprintf("more than %d brackets are open here", maxDepth)
		case run > maxRun && depthOfLine(raw, lineStart, i):
			what = fmt.Sprintf("more than %d operators stand in one line", maxRun)
		case signs > maxSigns:
			what = fmt.Sprintf("the file holds more than %d signs", maxSigns)
		}
		if what != "" {
			pos := hcl.Pos{Line: line, Column: i - lineStart + 1, Byte: i}
			return hcl.Diagnostics{problem(&hcl.Range{Filename: name, Start: pos, End: pos}, "%s", what)}
		}
	}
	return nil
}

// depthOfLine says whether the operators counted so far in a line are no part of a word, such as a long row of dashes in a
// comment.
func depthOfLine(raw []byte, start, end int) bool {
	for _, c := range raw[start:end] {
		if c == '#' {
			return false
		}
		if c != ' ' && c != '\t' {
			break
		}
	}
	return true
}

// checkStrings refuses a value with a string that is too long.
func checkStrings(v cty.Value, at hcl.Range) hcl.Diagnostics {
	if n := longest(v); n > maxString {
		return hcl.Diagnostics{problem(&at, "a string of %d bytes comes out here; at most %d are allowed", n, maxString)}
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
