package config

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// pieceSize is about how much of a file in HCL's own syntax is parsed at once, in bytes. The parser needs a hundred times as
// much memory while it is at it.
const pieceSize = 512 << 10

// parseNative parses a file piece by piece, into one block.
func (d *document) parseNative(raw []byte) hcl.Diagnostics {
	root := &block{attrs: hcl.Attributes{}, file: d, at: hcl.Range{Filename: d.name}}
	pos := hcl.InitialPos
	var diags hcl.Diagnostics
	for rest := raw; len(rest) > 0 || pos == hcl.InitialPos; {
		piece := rest[:pieceEnd(rest, pieceSize)]
		more := d.parsePiece(root, piece, pos)
		if more.HasErrors() && len(piece) < len(rest) && len(rest) <= 8*pieceSize {
			// It may have been cut inside of a text or a comment.
			piece = rest
			more = d.parsePiece(root, piece, pos)
		}
		diags = append(diags, more...)
		if diags.HasErrors() || len(piece) == 0 {
			break
		}
		pos = hcl.Pos{Line: pos.Line + bytes.Count(piece, []byte("\n")), Column: 1, Byte: pos.Byte + len(piece)}
		rest = rest[len(piece):]
	}
	d.root = root
	return diags
}

// pieceEnd is where a piece of about size bytes ends: after a line that holds a closing brace and nothing else.
func pieceEnd(raw []byte, size int) int {
	if len(raw) <= size {
		return len(raw)
	}
	end := []byte("\n}\n")
	if i := bytes.Index(raw[size:], end); i >= 0 {
		return size + i + len(end)
	}
	return len(raw)
}

// parsePiece adds what a piece holds to the root, unless it has errors.
func (d *document) parsePiece(root *block, piece []byte, pos hcl.Pos) hcl.Diagnostics {
	if diags := checkText(d.name, piece, pos, maxPiece); diags.HasErrors() {
		return diags
	}
	if manyOps(piece) {
		tokens, _ := hclsyntax.LexConfig(piece, d.name, pos) // the parser tells what is wrong with them
		if diags := checkTokens(tokens); diags.HasErrors() {
			return diags
		}
	}
	file, diags := hclsyntax.ParseConfig(piece, d.name, pos)
	if diags.HasErrors() {
		return diags
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return hcl.Diagnostics{problem(nil, "%s: not HCL", d.name)}
	}
	b, more := d.readNative("", body, hcl.Range{Filename: d.name})
	diags = append(diags, more...)
	for name, a := range b.attrs {
		if old, twice := root.attrs[name]; twice {
			at := a.NameRange
			diags = append(diags, problem(&at, "%q is already set on line %d", name, old.NameRange.Start.Line))
		}
		root.attrs[name] = a
	}
	for _, inner := range b.blocks {
		inner.compact()
	}
	root.blocks = append(root.blocks, b.blocks...)
	return diags
}

// compact replaces expressions of a target that say one value alone by that value, which takes a tenth of the memory.
func (b *block) compact() {
	if b.kind != "target" {
		return
	}
	for name, a := range b.attrs {
		if b.file.kinds[b.kind].folded == name {
			continue // each element has a place of its own
		}
		if v, diags := a.Expr.Value(&hcl.EvalContext{}); len(a.Expr.Variables()) == 0 && !diags.HasErrors() && v.IsWhollyKnown() {
			a.Expr = hcl.StaticExpr(v, a.Expr.Range())
		}
	}
}

// readNative takes over a body in HCL's own syntax.
func (d *document) readNative(kind string, body *hclsyntax.Body, at hcl.Range) (*block, hcl.Diagnostics) {
	b := &block{kind: kind, at: at, attrs: hcl.Attributes{}, file: d}
	for name, a := range body.Attributes {
		b.attrs[name] = a.AsHCLAttribute()
	}
	var diags hcl.Diagnostics
	for _, inner := range body.Blocks {
		known, err := b.allows(inner.Type, inner.TypeRange)
		diags = append(diags, err...)
		if !known {
			continue
		}
		next, more := d.readNative(inner.Type, inner.Body, inner.DefRange())
		diags = append(diags, more...)
		wantLabel := d.kinds[inner.Type].labelled
		switch {
		case wantLabel && len(inner.Labels) != 1:
			at := inner.DefRange()
			diags = append(diags, problem(&at, "block needs exactly one label: %s \"NAME\" { … }", inner.Type))
			continue
		case !wantLabel && len(inner.Labels) > 0:
			at := inner.DefRange()
			diags = append(diags, problem(&at, "block takes no label: %s { … }", inner.Type))
			continue
		case wantLabel:
			next.label, next.at = inner.Labels[0], hcl.RangeBetween(inner.TypeRange, inner.LabelRanges[0])
		}
		b.blocks = append(b.blocks, next)
	}
	return b, append(diags, b.foldBlocks()...)
}
