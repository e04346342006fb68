package planner

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// A here-document cannot continue a line as an instruction can, so a long line of one becomes several lines that end
// with a joint, and every text that comes back from the frontend has the joints removed. The joint does not occur in
// the Dockerfile. It begins with a byte that cannot belong to the name of a variable, and lines are split only between
// words of the expansion (see joinPoint). So the frontend expands the variables of the parts as those of the whole.
//
// Without the removal the joints would be in the files of an image; TestLongHeredocs builds all kinds.

// newJoint returns a joint for a Dockerfile. It depends only on the content, because it is part of raw steps.
func newJoint(data []byte) string {
	for n := 0; ; n++ {
		sum := digest.FromString(fmt.Sprint(n, " ", digest.FromBytes(data)))
		joint := ".joint-" + sum.Encoded()[:16] + ".\n"
		if !bytes.Contains(data, []byte(joint)) {
			return joint
		}
	}
}

// longLineError reports a line that cannot be split.
type longLineError struct {
	line int // of the file
	size int
	what string
}

func (e *longLineError) Error() string {
	return fmt.Sprintf("a line of %d bytes %s; split it into lines of at most %d bytes", e.size, e.what, maxParsedLine)
}

// joinPoint returns where a long line of a here-document is split: after at most splitAt bytes, before no tab, which
// <<- removes at the start of a line, within no character, and outside of escapes and variables if the frontend expands
// them. It returns 0 if there is no such place.
func joinPoint(line []byte, expanded bool) int {
	last := 0
	for i := 0; i < splitAt; {
		if line[i] != '\t' && utf8.RuneStart(line[i]) {
			last = i
		}
		if !expanded {
			i++
			continue
		}
		i += wordLength(line[i:])
	}
	if last < splitAt/2 {
		return 0
	}
	return last
}

// wordLength returns the length of the escape or variable at the start of text, or 1.
func wordLength(text []byte) int {
	switch {
	case len(text) < 2:
		return len(text)
	case text[0] == '\\':
		return 2
	case text[0] != '$':
		return 1
	case text[1] != '{':
		n := 1
		for n < len(text) && isNameByte(text[n]) {
			n++
		}
		return max(n, 2)
	}
	depth := 0
	for i, c := range text {
		switch c {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 1 // the expression does not end in this line
}

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// withoutJoints removes the joints from an op and its metadata. It reports whether the op changed.
func withoutJoints(op *pb.Op, meta *llb.OpMetadata, joint string) (changed bool) {
	remove := func(s string) string {
		changed = changed || strings.Contains(s, joint)
		return strings.ReplaceAll(s, joint, "")
	}
	args := op.GetExec().GetMeta().GetArgs()
	for i, arg := range args {
		args[i] = remove(arg)
	}
	for _, a := range op.GetFile().GetActions() {
		if f := a.GetMkfile(); f != nil && bytes.Contains(f.Data, []byte(joint)) {
			f.Data, changed = bytes.ReplaceAll(f.Data, []byte(joint), nil), true
		}
	}
	for k, v := range meta.Description {
		meta.Description[k] = strings.ReplaceAll(v, joint, "")
	}
	if g := meta.ProgressGroup; g != nil {
		g.Name = strings.ReplaceAll(g.Name, joint, "")
	}
	return changed
}

// configWithoutJoints removes the joints from the JSON of an image config, whose history holds commands.
func configWithoutJoints(config []byte, joint string) []byte {
	return bytes.ReplaceAll(config, []byte(strings.TrimSuffix(joint, "\n")+`\n`), nil)
}

// ignoreError is an error in a line of an ignore file.
type ignoreError struct {
	file string
	line int
	err  error
}

func (e *ignoreError) Error() string { return place(e.file, e.line) + e.err.Error() }
func (e *ignoreError) Unwrap() error { return e.err }

// shortIgnore returns an ignore file for the frontend, whose parser reads lines of at most maxParsedLine bytes. A long
// comment is left out. A long pattern is an error: it is longer than any path.
func shortIgnore(file string, data []byte) ([]byte, error) {
	if len(data) <= maxParsedLine {
		return data, nil
	}
	var out bytes.Buffer
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if len(line) > maxParsedLine {
			text := bytes.TrimSpace(line)
			if bytes.HasPrefix(line, []byte("#")) {
				text = []byte("#")
			}
			if len(text) >= maxParsedLine {
				return nil, &ignoreError{file, n, fmt.Errorf(
					"a pattern of %d bytes is longer than any path; shorten it or write one pattern a line", len(text))}
			}
			line = append(text[:len(text):len(text)], '\n')
		}
		out.Write(line)
	}
	return out.Bytes(), nil
}

// longLine returns a DockerfileError for a line that cannot be split.
func (d dockerfile) longLine(target string, err error) error {
	e := &DockerfileError{Target: target, File: d.display, Err: err}
	if long, ok := errors.AsType[*longLineError](err); ok {
		e.Line = long.line
	}
	return e
}
