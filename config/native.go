package config

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// pieceSize is the approximate size in bytes of the pieces in which an HCL file is parsed.
const pieceSize = 512 << 10

// parseNative parses a file in HCL's native syntax, piece by piece, into d.root.
//
// The HCL parser needs about a hundred times the memory of its input while it parses, so a file of maxFile bytes
// would need more than a gigabyte. A piece ends after a line that contains only a closing brace, which normally ends
// a block. That line may also be inside of a heredoc or a comment; then the piece has a syntax error, and it is
// parsed again together with the rest of the file, if the rest is small enough. So splitting never changes the result
// for a valid file of at most 8 pieces; its positions are those in the whole file. BenchmarkPrint has files of
// several pieces.
func (d *document) parseNative(raw []byte) hcl.Diagnostics {
	root := &block{attrs: hcl.Attributes{}, file: d, at: hcl.Range{Filename: d.name}}
	pos := hcl.InitialPos
	var diags hcl.Diagnostics
	for rest := raw; len(rest) > 0 || pos == hcl.InitialPos; {
		piece := rest[:pieceEnd(rest, pieceSize)]
		more := d.parsePiece(root, piece, pos)
		if more.HasErrors() && len(piece) < len(rest) && len(rest) <= 8*pieceSize {
			// The cut may be inside of a heredoc or a comment.
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

// pieceEnd returns the length of the first piece of raw: it ends after the first line past size bytes that contains
// only a closing brace.
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

// parsePiece parses a piece that starts at pos and adds its attributes and blocks to root. After a syntax error it
// adds nothing, so that the caller can try a longer piece.
func (d *document) parsePiece(root *block, piece []byte, pos hcl.Pos) hcl.Diagnostics {
	if diags := checkText(d.name, piece, pos, maxPiece); diags.HasErrors() {
		return diags
	}
	if manyOps(piece) {
		tokens, _ := hclsyntax.LexConfig(piece, d.name, pos) // the parser reports errors in them
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
	if bytes.Contains(piece, []byte("for")) || bytes.ContainsRune(piece, '*') { // what else has no loop
		interruptible(body)
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

// compact replaces constant expressions of a target by their values, which need a tenth of the memory.
func (b *block) compact() {
	if b.kind != "target" {
		return
	}
	for name, a := range b.attrs {
		if b.file.kinds[b.kind].folded == name {
			continue // its diagnostics need the position of each element
		}
		v, diags := a.Expr.Value(&b.file.constants)
		if len(a.Expr.Variables()) == 0 && !diags.HasErrors() && v.IsWhollyKnown() {
			a.Expr = hcl.StaticExpr(v, a.Expr.Range())
		}
	}
}

// readNative reads a body in HCL's native syntax.
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
