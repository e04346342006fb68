package planner

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/bakebuild/bake/config"
)

// Limits on what a Dockerfile can make of its variables. The front end runs in this process and expands without bound:
// "ENV A=$A$A", forty times, would fill any memory.
const (
	maxValue        = 1 << 20  // bytes of one variable, and of all that a base image brings
	maxInstruction  = 4 << 20  // bytes of one instruction after expansion
	maxExpanded     = 64 << 20 // bytes of all instructions, each RUN with its environment
	maxInstructions = 5_000
	maxNesting      = 1_000    // of ${…${…}…}
	maxPatternWork  = 1 << 28  // steps of matching ${x#pattern} and the like
	maxBaseValue    = 32 << 10 // bytes of one variable of a base image or linked target
)

// checkBounds refuses a Dockerfile that would take unreasonable memory or time. It follows the lengths of variables from
// instruction to instruction and never a value, so it errs on the high side: a variable counts as long as the sum of all
// that its new value refers to. The library's parser finds the instructions; a syntax error is left to the front end.
func checkBounds(t *config.Target, d dockerfile) error {
	if isHarmless(d.data) {
		return nil
	}
	if depth := nesting(d.data); depth > maxNesting {
		return &DockerfileError{Target: t.Name, File: d.display,
			Err: fmt.Errorf("variables are nested %d deep; at most %d are allowed", depth, maxNesting)}
	}
	if bytes.Count(bytes.ToLower(d.data), []byte("onbuild")) > maxInstructions { // they may stand one within the other
		return &DockerfileError{Target: t.Name, File: d.display, Err: fmt.Errorf("it says ONBUILD more than %d times", maxInstructions)}
	}
	b := newBounds(t.Args, maxValue)
	if err := b.check(d.data); err != nil {
		return &DockerfileError{Target: t.Name, File: d.display, Line: b.line, Err: err}
	}
	return nil
}

// isHarmless says whether a Dockerfile is short and has so few variables that it cannot reach a limit.
func isHarmless(data []byte) bool {
	return len(data) < 1<<14 && bytes.Count(data, []byte("$")) < 8 && !bytes.Contains(data, []byte("//"))
}

// lengths are upper bounds of the lengths of variables, in bytes.
type lengths map[string]int

// unknownLength is taken for a variable that no line sets: it may come from the base image or be predefined.
const unknownLength = 4096

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
	count    int // of instructions, with those that ONBUILD repeats
	total    int // bytes
	line     int // of the instruction at hand
}

func newBounds(args map[string]string, limit int) *bounds {
	return &bounds{
		args: args, limit: limit,
		stages: map[string]lengths{}, triggers: map[string][]*parser.Node{}, current: lengths{},
	}
}

// check follows a whole Dockerfile. The library's parser finds the instructions; a syntax error is left to the front end.
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

// instruction adds one instruction.
func (b *bounds) instruction(n *parser.Node) error {
	if b.count++; b.count > maxInstructions {
		return fmt.Errorf("the Dockerfile has more than %d instructions", maxInstructions)
	}
	if strings.EqualFold(n.Value, "onbuild") && n.Next != nil && len(n.Next.Children) == 1 {
		b.triggers[b.stage] = append(b.triggers[b.stage], n.Next.Children[0])
		return nil
	}
	var words []string
	for w := n.Next; w != nil; w = w.Next {
		words = append(words, w.Value)
	}
	size := 0
	grown := make([]int, len(words))
	for i, w := range words {
		var err error
		if grown[i], err = b.grow(w); err != nil {
			return err
		}
		size += grown[i]
	}
	for _, h := range n.Heredocs {
		if !h.Expand {
			size += len(h.Content)
			continue
		}
		n, err := b.grow(h.Content)
		if err != nil {
			return err
		}
		size += n
	}
	if size > maxInstruction+len(n.Original) {
		return fmt.Errorf("%s would grow to more than %d bytes by its variables", strings.ToUpper(n.Value), maxInstruction)
	}
	b.total += size
	return b.effect(n, words, grown)
}

// effect is what an instruction does to the variables of its stage. grown are the lengths of its words after expansion.
func (b *bounds) effect(n *parser.Node, words []string, grown []int) error {
	switch strings.ToLower(n.Value) {
	case "from":
		return b.from(words)
	case "run":
		b.total += b.env
	case "env":
		for i := 0; i+1 < len(words); i += 3 { // key, value, separator
			if err := b.set(words[i], grown[i+1]); err != nil {
				return err
			}
		}
	case "arg":
		for i, w := range words {
			key, _, hasDefault := strings.Cut(w, "=")
			length := grown[i]
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
		return fmt.Errorf("its variables make the Dockerfile grow to more than %d bytes", maxExpanded)
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

// from starts a stage: with the variables of the stage it stands on, or with none. An expression may name any stage.
func (b *bounds) from(words []string) error {
	if b.global == nil {
		b.global = b.current
	}
	b.current, b.stage, b.env = lengths{}, "", 0
	if len(words) == 0 {
		return nil
	}
	base := strings.ToLower(words[0])
	var triggers []*parser.Node
	for name, stage := range b.stages {
		if name != base && isPlain(words[0]) {
			continue
		}
		for k, v := range stage {
			b.env += max(0, v-b.current[k])
			b.current[k] = max(b.current[k], v)
		}
		triggers = append(triggers, b.triggers[name]...)
	}
	if len(words) == 3 && strings.EqualFold(words[1], "as") {
		b.stage = strings.ToLower(words[2])
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

// grow bounds the length of a word after expansion.
func (b *bounds) grow(word string) (int, error) {
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
			return size, nil // more than enough, and no overflow
		}
	}
	return size, nil
}

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

// isPlain says whether a name is written out, without variables, quotes and escapes.
func isPlain(name string) bool { return !strings.ContainsAny(name, "$\"'\\`") }

func isAlphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 127
}

// nesting is how deep "${" stands within "${" anywhere in the text.
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
