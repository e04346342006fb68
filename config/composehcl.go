package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/tree"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// composeVariables turns the variables of a compose file into variables of a project file.
//
// The compose parser must see strings, so each reference becomes a mark: a number between two characters that no file
// uses. When the targets are written, each mark becomes the template of its reference. By then the defaults of all
// references are known, and with them the default of the variable.
type composeVariables struct {
	references []composeReference // by the number of the mark
	uses       map[string]*variableUse
}

// Marks are written as composeMark, number, composeMarkEnd.
const (
	composeMark    = "\ue000"
	composeMarkEnd = "\ue001"
)

// composeReference is ${NAME}, or ${NAME:-REST} with another operator.
type composeReference struct{ name, operator, rest string }

// variableUse is how the references use one variable.
type variableUse struct {
	defaults []string // distinct; "" for a reference without one
	required string   // the message if it must be set
	optional bool     // an argument without a value: it is not passed unless the variable is set
}

func (vs *composeVariables) use(name string) *variableUse {
	if vs.uses[name] == nil {
		vs.uses[name] = &variableUse{}
	}
	return vs.uses[name]
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
	for _, key := range []string{"shm_size", "no_cache", "pull", "privileged"} { // no strings
		marking.TypeCastMapping[build.Next(key)] = func(value string) (any, error) {
			return vs.withDefaults(value), nil
		}
	}
	return &marking
}

// withDefaults replaces the marks in a text by the defaults of their references.
func (vs *composeVariables) withDefaults(text string) string {
	return composeMarks().ReplaceAllStringFunc(text, func(m string) string {
		n, err := strconv.Atoi(composeMarks().FindStringSubmatch(m)[1])
		if err != nil || n >= len(vs.references) || !strings.HasSuffix(vs.references[n].operator, "-") {
			return ""
		}
		return vs.withDefaults(vs.references[n].rest)
	})
}

// composeMarks matches a mark, also as HCL writes it.
func composeMarks() *regexp.Regexp {
	return regexp.MustCompile(`(?:\\ue000|` + composeMark + `)(\d+)(?:\\ue001|` + composeMarkEnd + `)`)
}

// required returns the variables in the text of a block that must be set, sorted: by a reference that says so, or
// because a path or the name of an image would be wrong without them.
func (vs *composeVariables) required(text, names string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(vs.uses)) {
		u := vs.uses[name]
		plain := "${" + name + "}"
		if u.required != "" && mentionsName(text, name) || u.defaultOf() == "" && strings.Contains(names, plain) {
			all = append(all, name)
		}
	}
	return all
}

// mentionsName reports whether a text in HCL has a name.
func mentionsName(text, name string) bool {
	return regexp.MustCompile(`\b` + name + `\b`).MatchString(text)
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
		vs.record(r)
		fmt.Fprintf(&b, "%s%d%s", composeMark, len(vs.references)-1, composeMarkEnd)
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

func (vs *composeVariables) record(r composeReference) {
	u := vs.use(r.name)
	fallback := ""
	switch {
	case strings.HasSuffix(r.operator, "?"):
		u.required = r.rest
		if u.required == "" {
			u.required = "set " + r.name
		}
	case strings.HasSuffix(r.operator, "-") && !strings.Contains(r.rest, "$"):
		fallback = r.rest
	}
	r.rest = vs.mark(r.rest)
	vs.references = append(vs.references, r)
	if !strings.HasSuffix(r.operator, "+") && !slices.Contains(u.defaults, fallback) {
		u.defaults = append(u.defaults, fallback)
	}
}

// defaultOf returns the default of a variable: the one that all references share.
func (u *variableUse) defaultOf() string {
	if len(u.defaults) == 1 {
		return u.defaults[0]
	}
	return ""
}

// template returns the HCL template of a reference.
func (vs *composeVariables) template(r composeReference) string {
	switch {
	case strings.HasSuffix(r.operator, "+"):
		return fmt.Sprintf("${%s != \"\" ? %s : \"\"}", r.name, vs.quoted(r.rest))
	case strings.HasSuffix(r.operator, "-") && r.rest != vs.uses[r.name].defaultOf():
		return fmt.Sprintf("${%s != \"\" ? %[1]s : %s}", r.name, vs.quoted(r.rest))
	}
	return "${" + r.name + "}"
}

// quoted returns a string with marks as an HCL string.
func (vs *composeVariables) quoted(s string) string {
	home := ""
	if strings.HasPrefix(s, "~/") {
		s, home = s[1:], "${homedir()}"
	}
	text := string(hclwrite.TokensForValue(cty.StringVal(s)).Bytes())
	text = `"` + home + text[1:]
	mark := composeMarks()
	return mark.ReplaceAllStringFunc(text, func(m string) string {
		n, err := strconv.Atoi(mark.FindStringSubmatch(m)[1])
		if err != nil || n >= len(vs.references) {
			return ""
		}
		return vs.template(vs.references[n])
	})
}

// plain returns a string with templates instead of marks, without quotes.
func (vs *composeVariables) plain(v cty.Value) string {
	text := vs.quoted(v.AsString())
	return text[1 : len(text)-1]
}

// text returns a value in HCL. unset lists additional keys of an object whose values are the variables of these names.
func (vs *composeVariables) text(v cty.Value, unset []string) string {
	switch t := v.Type(); {
	case t == cty.String:
		return vs.quoted(v.AsString())
	case t.IsObjectType() || t.IsMapType():
		entries := map[string]string{}
		for key, value := range v.AsValueMap() {
			entries[vs.key(key)] = vs.text(value, nil)
		}
		for _, key := range unset {
			entries[vs.key(key)] = key
			if u := vs.uses[key]; len(u.defaults) > 0 {
				entries[vs.key(key)] = fmt.Sprintf("%s != \"\" ? %[1]s : null", key)
			}
		}
		lines := "{\n"
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			lines += key + " = " + entries[key] + "\n"
		}
		return lines + "}"
	case v.CanIterateElements():
		var items []string
		for it := v.ElementIterator(); it.Next(); {
			_, item := it.Element()
			items = append(items, vs.text(item, nil))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return string(hclwrite.TokensForValue(v).Bytes())
}

// key returns a key of an object, in quotes unless it is a name.
func (vs *composeVariables) key(key string) string {
	if variableLength(key) == len(key) && key != "" {
		return key
	}
	return vs.quoted(key)
}

// blocks returns the blocks of the variables that a text uses, sorted by name.
func (vs *composeVariables) blocks(text string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(vs.uses)) {
		u := vs.uses[name]
		if !mentionsName(text, name) {
			continue
		}
		fallback := strconv.Quote("")
		if u.optional && len(u.defaults) == 0 {
			fallback = "null"
		} else if s := u.defaultOf(); s != "" {
			fallback = vs.quoted(s)
		} else if name == "COMPOSE_PROJECT_NAME" {
			fallback = `"bake"`
		}
		block := fmt.Sprintf("variable %q {\ndefault = %s\n", name, fallback)
		if u.required != "" {
			block += fmt.Sprintf("validation {\ncondition = %s != \"\"\nerror_message = %s\n}\n", name,
				vs.quoted(u.required))
		}
		all = append(all, string(hclwrite.Format([]byte(block+"}\n"))))
	}
	return all
}

// Quote returns a string as an HCL string.
func Quote(s string) string { return string(hclwrite.TokensForValue(cty.StringVal(s)).Bytes()) }
