package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/tree"
)

// composeVariables turns the variables of compose files into variables of a project file.
//
// The compose parser must see strings, so each reference becomes a mark: a number between two characters that
// composeCopies refuses in files. When the targets are written, each mark becomes the template of its reference. By
// then the defaults of all references are known, and with them the default of the variable.
type composeVariables struct {
	references []composeReference // by the number of the mark
	uses       map[string]*variableUse
	reserved   map[string]bool // variables that a project file cannot have
}

// Marks are written as composeMark, number, composeMarkEnd. homeMark stands for the home directory.
const (
	composeMark    = "\ue000"
	composeMarkEnd = "\ue001"
	homeMark       = "\ue002"
)

// composeReference is ${NAME}, or ${NAME:-REST} with another operator.
type composeReference struct{ name, operator, rest string }

// variableUse is how the references use one variable.
type variableUse struct {
	defaults []string // distinct; "" for a reference without one
	required *string  // the message with marks if it must be set
	optional bool     // an argument without a value: it is not passed unless the variable is set
}

func (vs *composeVariables) use(name string) *variableUse {
	if vs.uses[name] == nil {
		vs.uses[name] = &variableUse{}
	}
	return vs.uses[name]
}

// declare reports whether a project file can have a variable of a name.
func (vs *composeVariables) declare(name string) bool {
	switch name {
	case "null", "true", "false", "target", cmdContext, localPlatform:
		vs.reserved[name] = true
		return false
	}
	return variableLength(name) == len(name) && name != ""
}

// interpolate returns options of compose-go that put marks into the strings.
func (vs *composeVariables) interpolate(o *interpolation.Options) *interpolation.Options {
	marking := *o
	marking.Substitute = func(text string, _ template.Mapping) (string, error) { return vs.mark(text), nil }
	marking.TypeCastMapping = map[tree.Path]interpolation.Cast{}
	for path, cast := range o.TypeCastMapping {
		marking.TypeCastMapping[path] = func(value string) (any, error) { return cast(vs.withDefaults(value)) }
	}
	build := tree.NewPath("services", tree.PathMatchAll, "build")
	limit := build.Next("ulimits").Next(tree.PathMatchAll)
	secret := build.Next("secrets").Next(tree.PathMatchList)
	for _, path := range []tree.Path{ // no strings
		build.Next("shm_size"), build.Next("no_cache"), build.Next("pull"), build.Next("privileged"),
		limit, limit.Next("soft"), limit.Next("hard"), secret.Next("mode"),
	} {
		marking.TypeCastMapping[path] = func(value string) (any, error) { return vs.withDefaults(value), nil }
	}
	return &marking
}

// eachPart calls a function for each part of a text with marks, in order.
func (vs *composeVariables) eachPart(s string, literal func(string), reference func(composeReference)) {
	for s != "" {
		before, rest, found := strings.Cut(s, composeMark)
		if before != "" {
			literal(before)
		}
		if !found {
			return
		}
		number, after, _ := strings.Cut(rest, composeMarkEnd)
		if n, err := strconv.Atoi(number); err == nil && n >= 0 && n < len(vs.references) {
			reference(vs.references[n])
		}
		s = after
	}
}

// withDefaults replaces the marks in a text by the defaults of their references.
func (vs *composeVariables) withDefaults(text string) string {
	var b strings.Builder
	vs.eachPart(text, func(literal string) { b.WriteString(literal) }, func(r composeReference) {
		if strings.HasSuffix(r.operator, "-") {
			b.WriteString(vs.withDefaults(r.rest))
		}
	})
	return b.String()
}

// withNames replaces the marks in a text by the names of their variables.
func (vs *composeVariables) withNames(text string) string {
	var b strings.Builder
	vs.eachPart(text, func(literal string) { b.WriteString(literal) }, func(r composeReference) {
		b.WriteString("${" + r.name + "}")
	})
	return b.String()
}

// mark replaces the references in a text by marks.
func (vs *composeVariables) mark(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+1 == len(text) {
			break
		}
		b.WriteString(text[:i])
		text = text[i:]
		if text[1] == '$' {
			b.WriteByte('$')
			text = text[2:]
			continue
		}
		r, n := composeReferenceAt(text)
		if n == 0 {
			b.WriteByte('$')
			text = text[1:]
			continue
		}
		b.WriteString(vs.record(r))
		text = text[n:]
	}
	return b.String() + text
}

// composeReferenceAt reads the reference at the start of a text, and returns its length, or 0 if there is none.
func composeReferenceAt(text string) (composeReference, int) {
	if text[1] != '{' {
		n := variableLength(text[1:])
		if n == 0 {
			return composeReference{}, 0
		}
		return composeReference{name: text[1 : 1+n]}, 1 + n
	}
	depth := 0
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth > 0 {
			continue
		}
		inner := text[2:i]
		name := inner[:variableLength(inner)]
		rest := inner[len(name):]
		for _, op := range []string{":-", ":?", ":+", "-", "?", "+"} {
			if after, ok := strings.CutPrefix(rest, op); ok && name != "" {
				return composeReference{name, op, after}, i + 1
			}
		}
		if name == "" || rest != "" {
			return composeReference{}, 0
		}
		return composeReference{name: name}, i + 1
	}
	return composeReference{}, 0
}

// record notes a reference and returns its mark, or its default if a project file cannot have the variable.
func (vs *composeVariables) record(r composeReference) string {
	fallback := ""
	if strings.HasSuffix(r.operator, "-") && !strings.Contains(r.rest, "$") {
		fallback = r.rest
	}
	r.rest = vs.mark(r.rest)
	if !vs.declare(r.name) {
		if strings.HasSuffix(r.operator, "-") {
			return r.rest
		}
		return ""
	}
	u := vs.use(r.name)
	if strings.HasSuffix(r.operator, "?") && u.required == nil {
		u.required = &r.rest
		if r.rest == "" {
			text := "set " + r.name
			u.required = &text
		}
	}
	vs.references = append(vs.references, r)
	if !slices.Contains(u.defaults, fallback) {
		u.defaults = append(u.defaults, fallback)
	}
	return composeMark + strconv.Itoa(len(vs.references)-1) + composeMarkEnd
}

// defaultOf returns the default of a variable: the one that all references share. An argument that only the environment
// sets has none.
func (u *variableUse) defaultOf() string {
	if len(u.defaults) == 1 && !u.optional {
		return u.defaults[0]
	}
	return ""
}
