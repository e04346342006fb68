package planner

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/bakebuild/bake/config"
)

// Limits on the expansion of variables in a Dockerfile. The frontend runs in this process and expands without limit:
// forty lines of "ENV A=$A$A" would use up any memory.
const (
	maxValue        = 1 << 20  // bytes of one variable, and of the environment and ONBUILD instructions of a base image
	maxInstruction  = 4 << 20  // bytes of one instruction after expansion
	maxExpanded     = 64 << 20 // bytes of all instructions after expansion, each RUN with its environment
	maxInstructions = 5_000
	maxNesting      = 1_000    // of ${…${…}…}
	maxPatternWork  = 1 << 28  // value length times pattern length of ${x#pattern} and similar expressions
	maxBaseValue    = 32 << 10 // bytes of one variable of a base image or linked target
)

// checkBounds returns an error for a Dockerfile that would need unreasonable memory or time. It tracks upper bounds of
// the lengths of variables and never their values: a new value is as long as the sum of everything it refers to. Syntax
// errors are left to the frontend.
func checkBounds(t *config.Target, d dockerfile) error {
	if isHarmless(d.data) {
		return nil
	}
	if depth := nesting(d.data); depth > maxNesting {
		return &DockerfileError{Target: t.Name, File: d.display,
			Err: fmt.Errorf("variables are nested %d deep; at most %d are allowed", depth, maxNesting)}
	}
	if bytes.Count(bytes.ToLower(d.data), []byte("onbuild")) > maxInstructions { // they can be nested
		return &DockerfileError{Target: t.Name, File: d.display,
			Err: fmt.Errorf("the Dockerfile contains ONBUILD more than %d times", maxInstructions)}
	}
	b := newBounds(t.Args, maxValue)
	if err := b.check(d.data); err != nil {
		return &DockerfileError{Target: t.Name, File: d.display, Line: d.lines.original(b.line), Err: err}
	}
	return nil
}

// isHarmless reports whether a Dockerfile is so short, with so few variables, that it cannot reach a limit.
func isHarmless(data []byte) bool {
	return len(data) < 1<<14 && bytes.Count(data, []byte("$")) < 8 && !bytes.Contains(data, []byte("//"))
}

// lengths are upper bounds of the lengths of variables, in bytes.
type lengths map[string]int

// unknownLength is the assumed length of a variable that no line sets: it is predefined or comes from the base image.
const unknownLength = 4096

// bounds is the state of checking one Dockerfile.
type bounds struct {
	args     map[string]string // of the target
	limit    int               // bytes of one variable
	global   lengths           // ARGs before the first FROM
	stages   map[string]lengths
	triggers map[string][]*parser.Node // ONBUILD instructions by stage
	stage    string                    // name of the current stage
	current  lengths
	env      int // sum of current
	wild     int // longest value of a variable whose name is itself an expression
	count    int // of instructions, including those that ONBUILD repeats
	total    int // bytes of all instructions after expansion
	line     int // of the current instruction
}

func newBounds(args map[string]string, limit int) *bounds {
	return &bounds{
		args: args, limit: limit,
		stages: map[string]lengths{}, triggers: map[string][]*parser.Node{}, current: lengths{},
	}
}

// check checks a whole Dockerfile. It reports no syntax errors.
func (b *bounds) check(dockerfile []byte) error {
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil
	}
	for _, n := range parsed.AST.Children {
		b.line = n.StartLine
		if err := b.instruction(n); err != nil {
			return err
		}
	}
	return nil
}

// instruction adds one instruction to the bounds.
func (b *bounds) instruction(n *parser.Node) error {
	if b.count++; b.count > maxInstructions {
		return fmt.Errorf("the Dockerfile has more than %d instructions", maxInstructions)
	}
	if strings.EqualFold(n.Value, "onbuild") && n.Next != nil && len(n.Next.Children) == 1 {
		b.triggers[b.stage] = append(b.triggers[b.stage], n.Next.Children[0])
		return nil
	}
	var args []string
	for w := n.Next; w != nil; w = w.Next {
		args = append(args, w.Value)
	}
	size := 0
	expanded := make([]int, len(args))
	for i, arg := range args {
		var err error
		if expanded[i], err = b.expandedLength(arg); err != nil {
			return err
		}
		size += expanded[i]
	}
	written := len(n.Original)
	for _, h := range n.Heredocs {
		written += len(h.Content)
		if !h.Expand {
			size += len(h.Content)
			continue
		}
		n, err := b.expandedLength(h.Content)
		if err != nil {
			return err
		}
		size += n
	}
	if size > maxInstruction+written {
		return fmt.Errorf("%s would grow to more than %d bytes when its variables are expanded",
			strings.ToUpper(n.Value), maxInstruction)
	}
	b.total += size
	return b.apply(n, args, expanded)
}

// apply updates the variables of the stage for an instruction. expanded holds the lengths of args after expansion.
func (b *bounds) apply(n *parser.Node, args []string, expanded []int) error {
	switch strings.ToLower(n.Value) {
	case "from":
		return b.from(args)
	case "run":
		b.total += b.env
	case "env":
		for i := 0; i+1 < len(args); i += 3 { // key, value, separator
			if err := b.set(args[i], expanded[i+1]); err != nil {
				return err
			}
		}
	case "arg":
		for i, arg := range args {
			key, _, hasDefault := strings.Cut(arg, "=")
			length := expanded[i]
			if !hasDefault {
				length = max(length, b.global[key])
			}
			if v, ok := b.args[key]; ok {
				length = len(v)
			}
			if err := b.set(key, length); err != nil {
				return err
			}
		}
	}
	if b.total > maxExpanded {
		return fmt.Errorf("the Dockerfile would grow to more than %d bytes when its variables are expanded",
			maxExpanded)
	}
	return nil
}

func (b *bounds) set(key string, length int) error {
	if length > b.limit {
		return fmt.Errorf("variable %s would grow to more than %d bytes", key, b.limit)
	}
	if isPlain(key) {
		b.env += length - b.current[key]
		b.current[key] = length
	} else {
		b.wild = max(b.wild, length)
	}
	return nil
}

// from starts a stage. It inherits the variables of the stage it is based on, if any. A name with variables may refer
// to any stage, so such a stage inherits from all of them.
func (b *bounds) from(args []string) error {
	if b.global == nil {
		b.global = b.current
	}
	b.current, b.stage, b.env = lengths{}, "", 0
	if len(args) == 0 {
		return nil
	}
	base := strings.ToLower(args[0])
	var triggers []*parser.Node
	for name, stage := range b.stages {
		if name != base && isPlain(args[0]) {
			continue
		}
		for k, v := range stage {
			b.env += max(0, v-b.current[k])
			b.current[k] = max(b.current[k], v)
		}
		triggers = append(triggers, b.triggers[name]...)
	}
	if len(args) == 3 && strings.EqualFold(args[1], "as") {
		b.stage = strings.ToLower(args[2])
		b.stages[b.stage] = b.current
		b.triggers[b.stage] = nil
	}
	for _, n := range triggers {
		if err := b.instruction(n); err != nil {
			return err
		}
	}
	return nil
}

// expandedLength returns an upper bound of the length of a word after expansion.
func (b *bounds) expandedLength(word string) (int, error) {
	size := len(word)
	for i := 0; i < len(word); i++ {
		if word[i] != '$' {
			continue
		}
		rest := word[i+1:]
		braces := strings.HasPrefix(rest, "{")
		if braces {
			rest = rest[1:]
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !isAlphanumeric(r) })
		if end < 0 {
			end = len(rest)
		}
		length := b.length(rest[:end])
		if braces && end < len(rest) && strings.IndexByte("#%/", rest[end]) >= 0 {
			if length*len(word) > maxPatternWork {
				return 0, fmt.Errorf("matching a pattern against ${%s} would take too long", rest[:end])
			}
			if strings.HasPrefix(rest[end:], "//") { // each byte may be replaced
				length *= 1 + strings.IndexByte(rest+"}", '}') - end
			}
		}
		size += length
		if size > maxInstruction+len(word) {
			return size, nil // already over the limit; more could overflow
		}
	}
	return size, nil
}

// length returns an upper bound of the length of a variable's value.
func (b *bounds) length(name string) int {
	if l, ok := b.current[name]; ok {
		return max(l, b.wild)
	}
	if l, ok := b.global[name]; ok {
		return max(l, b.wild)
	}
	if v, ok := b.args[name]; ok {
		return max(len(v), b.wild)
	}
	if name == "" {
		return 1
	}
	return max(unknownLength, b.wild)
}

// isPlain reports whether a name contains no variables, quotes or escapes.
func isPlain(name string) bool { return !strings.ContainsAny(name, "$\"'\\`") }

func isAlphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 127
}

// nesting returns the maximum nesting depth of "${" in the text.
func nesting(data []byte) int {
	depth, deepest := 0, 0
	for i, c := range data {
		switch {
		case c == '{' && i > 0 && data[i-1] == '$':
			depth++
			deepest = max(deepest, depth)
		case c == '}' && depth > 0:
			depth--
		}
	}
	return deepest
}
