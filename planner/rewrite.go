package planner

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// The frontend's parser reads lines of at most maxParsedLine bytes, and has no option for more. splitAt is where longer
// lines are split.
const (
	maxParsedLine = 64<<10 - 1
	splitAt       = 60 << 10
)

// lineMap maps the lines of a rewritten Dockerfile to those of the file, from 1. Nil maps each line to itself.
type lineMap []int

func (m lineMap) original(line int) int {
	if line < 1 || line > len(m) {
		return line
	}
	return m[line-1]
}

func (m lineMap) location(l Location) Location {
	l.Start, l.End = m.original(l.Start), m.original(l.End)
	return l
}

// rewriter rewrites what the frontend's parser does not accept, or understands otherwise than its author: lines that
// are too long become several, joined by the escape character or, in a here-document, by a joint; a blank between <<-
// and the name of a here-document is removed; in a file with CRLF, the lines of a here-document end in LF. The lines of
// all other Dockerfiles stay as they are.
type rewriter struct {
	out    bytes.Buffer
	lines  lineMap
	escape byte
	// open are the here-documents whose content comes next.
	open []parser.Heredoc
	crlf bool
	// joint ends the parts of a long line of a here-document, see newJoint.
	joint string
	// err is the first line that cannot be split.
	err error
	// ends has the last line that can end each here-document, by name; nil until it is needed. Without it, each start
	// of a here-document would search the rest of the file.
	ends map[string]int
}

// rewritten is a Dockerfile for the frontend.
type rewritten struct {
	data  []byte
	lines lineMap // the lines of the file that the lines of data come from
	joint string  // in data, see newJoint; "" if there is none
}

// rewriteDockerfile returns the Dockerfile for the frontend. An error is a longLineError; the result is then a
// Dockerfile without that line's end.
func rewriteDockerfile(data []byte) (rewritten, error) {
	if !needsRewriting(data) {
		return rewritten{data: data}, nil
	}
	w := &rewriter{escape: '\\', joint: newJoint(data)}
	if m := escapeDirective().FindSubmatch(data); m != nil {
		w.escape = m[1][0]
	}
	var instruction []byte // the instruction so far, without its ends of line
	n := 0
	for rest := data; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		if end == 0 {
			end = len(rest)
		}
		line := rest[:end]
		rest = rest[end:]
		n++
		if len(w.open) > 0 {
			w.content(line, n)
			continue
		}
		if blankOrComment(line) {
			w.write(line[:min(len(line), splitAt)], n)
			if len(line) > splitAt {
				w.out.WriteByte('\n')
			}
			continue
		}
		if mayHoldHeredoc(instruction, line) {
			line = w.joinedHeredocs(line, data, n)
		}
		w.split(line, n)
		text := bytes.TrimRight(line, "\r\n")
		if part, more := w.continued(text); more {
			instruction = append(instruction, part...)
			continue
		}
		instruction = append(instruction, text...)
		w.open, w.crlf = heredocsOf(instruction), bytes.HasSuffix(line, []byte("\r\n"))
		instruction = nil
	}
	r := rewritten{data: w.out.Bytes(), lines: w.lines}
	if bytes.Contains(r.data, []byte(w.joint)) {
		r.joint = w.joint
	}
	return r, w.err
}

// needsRewriting reports whether a Dockerfile may have what a rewriter changes.
func needsRewriting(data []byte) bool {
	heredocs := bytes.Contains(data, []byte("<<"))
	if heredocs && (bytes.Contains(data, []byte("\r\n")) || blankHeredoc().Match(data)) {
		return true
	}
	for line := range bytes.Lines(data) {
		if len(line) > maxParsedLine {
			return true
		}
	}
	return false
}

func escapeDirective() *regexp.Regexp {
	return regexp.MustCompile("(?i)^(?:\\xef\\xbb\\xbf)?(?:#[^\\n]*\\n)*?" + // a byte order mark, other directives
		"#[ \\t]*escape[ \\t]*=[ \\t]*([\\\\`])[ \\t]*\\r?\\n")
}

// blankHeredoc matches the start of a here-document with a blank before its name; after << the parser accepts one.
func blankHeredoc() *regexp.Regexp {
	return regexp.MustCompile(`(<<-)[ \t]+(["']?)([A-Za-z_][A-Za-z0-9_]*)(["']?)`)
}

func blankOrComment(line []byte) bool {
	text := bytes.TrimSpace(line)
	return len(text) == 0 || text[0] == '#'
}

// mayHoldHeredoc reports whether the instruction that a line belongs to can have here-documents.
func mayHoldHeredoc(instruction, line []byte) bool {
	fields := strings.Fields(string(instruction[:min(len(instruction), 64)]) + string(line[:min(len(line), 64)]))
	if len(fields) > 1 && strings.EqualFold(fields[0], "onbuild") {
		fields = fields[1:]
	}
	if len(fields) < 2 || strings.HasPrefix(fields[1], "[") {
		return false
	}
	switch strings.ToLower(fields[0]) {
	case "run", "copy", "add":
		return true
	}
	return false
}

// joinedHeredocs removes the blank in "<<- EOF" in line n of the Dockerfile if a later line ends such a here-document.
// Otherwise << is a shift, as in $((1 << N)).
func (w *rewriter) joinedHeredocs(line, data []byte, n int) []byte {
	if !bytes.Contains(line, []byte("<<-")) {
		return line
	}
	if w.ends == nil {
		w.ends = heredocEnds(data)
	}
	pattern := blankHeredoc()
	var joined []byte
	from := 0
	for _, m := range pattern.FindAllSubmatchIndex(line, -1) {
		if w.ends[string(line[m[6]:m[7]])] > n {
			joined = append(joined, line[from:m[3]]...) // up to the end of <<-
			from = m[4]                                 // the name, or its quote
		}
	}
	return append(joined, line[from:]...)
}

// heredocEnds returns the last line that can end a here-document of each name, from 1.
func heredocEnds(data []byte) map[string]int {
	const maxName = 200
	ends := map[string]int{}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if name := bytes.TrimLeft(bytes.TrimRight(line, "\r\n"), "\t"); len(name) > 0 && len(name) <= maxName {
			ends[string(name)] = n
		}
	}
	return ends
}

// heredocsOf returns the here-documents that an instruction begins, as the parser finds them.
func heredocsOf(instruction []byte) []parser.Heredoc {
	if !bytes.Contains(instruction, []byte("<<")) || !mayHoldHeredoc(instruction, nil) {
		return nil
	}
	lex := shell.NewLex('\\')
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	found, err := lex.ProcessWords(string(instruction), shell.EnvsFromSlice(nil))
	if err != nil {
		return nil
	}
	run := regexp.MustCompile(`(?i)^\s*(onbuild\s+)?run\s`).Match(instruction)
	var all []parser.Heredoc
	for _, word := range found {
		if doc, err := parser.ParseHeredoc(word); err == nil && doc != nil {
			doc.Expand = doc.Expand && !run // its shell expands it
			all = append(all, *doc)
		}
	}
	return all
}

// content writes a line of a here-document, and closes the here-document if the line is its end.
func (w *rewriter) content(line []byte, n int) {
	if w.crlf && bytes.HasSuffix(line, []byte("\r\n")) {
		line = append(line[:len(line)-2:len(line)-2], '\n')
	}
	whole := line
	for len(line) > maxParsedLine {
		at := joinPoint(line, w.open[0].Expand)
		if at == 0 {
			w.tooLong(whole, n, "of a here-document consists of one expression")
			line = line[:splitAt]
			break
		}
		w.write(append(line[:at:at], w.joint...), n)
		line = line[at:]
	}
	w.write(line, n)
	if len(whole) > maxParsedLine {
		return // the end has a short line
	}
	end := strings.TrimRight(string(line), "\r\n")
	if w.open[0].Chomp {
		end = strings.TrimLeft(end, "\t")
	}
	if end == w.open[0].Name {
		w.open = w.open[1:]
	}
}

// continued returns the part of a line before the escape character that continues it on the next line.
func (w *rewriter) continued(text []byte) ([]byte, bool) {
	text = bytes.TrimRight(text, " \t")
	if len(text) == 0 || text[len(text)-1] != w.escape || len(text) > 1 && text[len(text)-2] == w.escape {
		return nil, false
	}
	return text[:len(text)-1], true
}

// split writes a line of an instruction, as several lines if it is too long. The parser drops blanks and comments at
// the start of a line that continues another, so none of these lines begins with one.
func (w *rewriter) split(line []byte, n int) {
	for len(line) > maxParsedLine {
		at := splitAt
		for w.special(line[at-1]) || w.special(line[at]) {
			if at--; at < splitAt/2 {
				w.tooLong(line, n, "consists of blanks, # or escape characters")
				w.write(line[:splitAt], n)
				return
			}
		}
		w.write(append(line[:at:at], w.escape, '\n'), n)
		line = line[at:]
	}
	w.write(line, n)
}

// tooLong records a line that cannot be split.
func (w *rewriter) tooLong(line []byte, n int, what string) {
	if w.err == nil {
		w.err = &longLineError{line: n, size: len(line), what: what}
	}
}

func (w *rewriter) special(c byte) bool {
	return c == w.escape || c == ' ' || c == '\t' || c == '#' || c == '\r' || c == '\n'
}

func (w *rewriter) write(line []byte, n int) {
	w.out.Write(line)
	w.lines = append(w.lines, n)
}
