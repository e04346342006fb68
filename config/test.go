package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// maxTests bounds the tests of one target, those of files included.
const maxTests = 2000

// Test is one check of a finished image: of a command that runs in it, of one of its files, or of its config. Exactly one of
// Command, File, Config and Structure is set; Load replaces a Structure by the tests of that file.
type Test struct {
	Name string `json:",omitempty"`
	At   Range  `json:",omitzero"` // where it was written

	Command  []string          `json:",omitempty"`
	Setup    [][]string        `json:",omitempty"` // run before Command on the same files; each must end with 0
	Env      map[string]string `json:",omitempty"` // beside the image's; $NAME and ${NAME} are the image's variables
	User     string            `json:",omitempty"` // "" is the image's
	ExitCode int               `json:",omitempty"`
	Stdout   TextCheck         `json:",omitzero"`
	Stderr   TextCheck         `json:",omitzero"`

	File         string    `json:",omitempty"` // absolute; links are followed
	Absent       bool      `json:",omitempty"` // the file must not be there
	Mode         string    `json:",omitempty"` // octal, or as ls shows it: -rwxr-xr-x
	Owner        string    `json:",omitempty"` // USER, USER:GROUP or :GROUP, by name or number
	ExecutableBy string    `json:",omitempty"` // owner, group, other or any
	Content      TextCheck `json:",omitzero"`

	Config    *ConfigCheck `json:",omitempty"`
	Structure string       `json:",omitempty"` // path of a file of container-structure-test, relative to Project.Dir
}

// TextCheck is what a text must be like. Expressions match lines: ^ and $ are those of a line.
type TextCheck struct {
	Exact                       *string  `json:",omitempty"`
	Contains, Matches, Excludes []string `json:",omitempty"` // the last two are regular expressions
}

// ConfigCheck is what an image's config must say. What is nil is not looked at; maps and lists must be part of what the
// image has, but for Entrypoint and Cmd, which must be equal.
type ConfigCheck struct {
	User, Workdir        *string           `json:",omitempty"`
	Entrypoint, Cmd      []string          // nil: not looked at
	Env, EnvMatches      map[string]string `json:",omitempty"`
	NoEnv                []string          `json:",omitempty"`
	Labels, LabelMatches map[string]string `json:",omitempty"`
	Ports, NoPorts       []string          `json:",omitempty"` // 8080 or 8080/tcp
	Volumes, NoVolumes   []string          `json:",omitempty"`
}

// testAttributes is the schema of a test, as attributes is that of a target.
func testAttributes() []attribute {
	rows := []attribute{
		{name: "command", kind: kindCommand, doc: "A command to run in the image: a list, or one string for `/bin/sh -c`. Its root is thrown away after it."},
		{name: "setup", kind: kindCommands, doc: "Commands that run before on the same files; each must succeed."},
		{name: "env", kind: kindMap, doc: "More variables of the command; `$NAME` in them is one of the image."},
		{name: "user", kind: kindString, doc: "Who runs the command; the image's user when not set."},
		{name: "exit-code", kind: kindString, doc: "The exit code that the command must have; 0 when not set."},
	}
	for _, stream := range []string{"stdout", "stderr"} {
		rows = append(rows, textRows(stream, "What the command writes to "+stream)...)
	}
	rows = append(rows,
		attribute{name: "file", kind: kindString, doc: "The absolute path of a file or directory to look at; links are followed."},
		attribute{name: "exists", kind: kindBool, doc: "Whether it must be there; true when not set."},
		attribute{name: "mode", kind: kindString, doc: "Its mode: octal such as `0755`, or as `ls` shows it."},
		attribute{name: "owner", kind: kindString, doc: "Its owner: `USER`, `USER:GROUP` or `:GROUP`, by name or number."},
		attribute{name: "executable-by", kind: kindString, doc: "Who may execute it: `owner`, `group`, `other` or `any`."})
	rows = append(rows, textRows("content", "What is in the file")...)
	return append(rows,
		attribute{name: "config", kind: kindConfig, doc: "What the image's config must say: an object or a block, see below."},
		attribute{name: "structure", kind: kindString, doc: "A file of tests in container-structure-test's schema 2.0.0."})
}

func textRows(name, what string) []attribute {
	return []attribute{
		{name: name, kind: kindString, doc: what + ", exactly."},
		{name: name + "-contains", kind: kindStrings, merge: mergeRepeat, doc: what + " must hold each of these."},
		{name: name + "-matches", kind: kindStrings, merge: mergeRepeat, doc: what + " must match each of these regular expressions; `^` and `$` are of a line."},
		{name: name + "-excludes", kind: kindStrings, merge: mergeRepeat, doc: what + " must match none of these regular expressions."},
	}
}

// configAttributes is the schema of a test's config.
func configAttributes() []attribute {
	return []attribute{
		{name: "user", kind: kindString, doc: "Its user."},
		{name: "workdir", kind: kindString, doc: "Its working directory."},
		{name: "entrypoint", kind: kindStrings, merge: mergeRepeat, doc: "Its entrypoint, all of it."},
		{name: "cmd", kind: kindStrings, merge: mergeRepeat, doc: "Its command, all of it."},
		{name: "env", kind: kindMap, doc: "Variables that it must set."},
		{name: "env-matches", kind: kindMap, doc: "Variables and the regular expressions that their values must match."},
		{name: "no-env", kind: kindStrings, doc: "Variables that it must not set."},
		{name: "labels", kind: kindMap, doc: "Labels that it must have."},
		{name: "labels-match", kind: kindMap, doc: "Labels and the regular expressions that their values must match."},
		{name: "ports", kind: kindStrings, doc: "Ports that it must expose: `8080` or `53/udp`."},
		{name: "no-ports", kind: kindStrings, doc: "Ports that it must not expose."},
		{name: "volumes", kind: kindStrings, doc: "Volumes that it must declare."},
		{name: "no-volumes", kind: kindStrings, doc: "Volumes that it must not declare."},
	}
}

// field is one attribute of a test, evaluated.
type field struct {
	name  string
	at    hcl.Range
	value cty.Value
}

// newTest makes a test of its attributes.
func newTest(fields []field, at hcl.Range) (Test, hcl.Diagnostics) {
	t := Test{At: rangeOf(at)}
	bag, diags := decodeFields("test", append(testAttributes(), attribute{name: "name", kind: kindString}), fields)
	if diags.HasErrors() {
		return t, diags
	}
	t.fill(bag)
	if err := t.check(bag); err != nil {
		return t, hcl.Diagnostics{problem(&at, "test %s: %v", t.Name, err)}
	}
	return t, nil
}

// decodeFields reads attributes by their rows.
func decodeFields(what string, rows []attribute, fields []field) (map[string]any, hcl.Diagnostics) {
	bag := map[string]any{}
	var diags hcl.Diagnostics
	known := blockKind{attrs: rows}
	for _, f := range fields {
		if !slices.Contains(known.attrNames(), f.name) {
			if !strings.HasPrefix(f.name, "x-") {
				hint := nearest(f.name, known.attrNames())
				diags = append(diags, problem(&f.at, "unknown attribute %q in %s%s", f.name, what, hint))
			}
			continue
		}
		v, more := known.attribute(f.name).decode(f.value, &f.at)
		diags = append(diags, more...)
		if v != nil {
			bag[f.name] = v
		}
	}
	return bag, diags
}

// fill takes over the values; what is wrong with them is told by check.
func (t *Test) fill(bag map[string]any) {
	t.Command, t.Setup = get[[]string](bag, "command"), get[[][]string](bag, "setup")
	t.Env, t.User = get[map[string]string](bag, "env"), get[string](bag, "user")
	t.ExitCode, _ = strconv.Atoi(get[string](bag, "exit-code"))
	t.Stdout, t.Stderr, t.Content = textCheckOf(bag, "stdout"), textCheckOf(bag, "stderr"), textCheckOf(bag, "content")
	t.File, t.Mode, t.Owner = get[string](bag, "file"), get[string](bag, "mode"), get[string](bag, "owner")
	t.ExecutableBy = get[string](bag, "executable-by")
	if exists := set[bool](bag, "exists"); exists != nil {
		t.Absent = !*exists
	}
	t.Config, t.Structure = get[*ConfigCheck](bag, "config"), get[string](bag, "structure")
	if t.Name = get[string](bag, "name"); t.Name == "" {
		t.Name = t.subject()
	}
}

// subject names a test by what it looks at.
func (t *Test) subject() string {
	switch {
	case len(t.Command) > 0:
		return strings.Join(t.Command, " ")
	case t.File != "":
		return t.File
	case t.Structure != "":
		return t.Structure
	}
	return "config"
}

func textCheckOf(bag map[string]any, name string) TextCheck {
	return TextCheck{
		Exact: set[string](bag, name), Contains: get[[]string](bag, name+"-contains"),
		Matches: get[[]string](bag, name+"-matches"), Excludes: get[[]string](bag, name+"-excludes"),
	}
}

// subjects are the attributes that say what a test is about, each with those that go with it.
func testSubjects() map[string][]string {
	with := func(names ...string) []string {
		var all []string
		for _, n := range names {
			all = append(all, n)
			if n == "stdout" || n == "stderr" || n == "content" {
				all = append(all, n+"-contains", n+"-matches", n+"-excludes")
			}
		}
		return all
	}
	return map[string][]string{
		"command": with("setup", "env", "user", "exit-code", "stdout", "stderr"),
		"file":    with("exists", "mode", "owner", "executable-by", "content"),
		"config":  nil, "structure": nil,
	}
}

// check says what is wrong with a test that was read from bag.
func (t *Test) check(bag map[string]any) error {
	var subject string
	all := testSubjects()
	for name := range bag {
		if _, ok := all[name]; !ok {
			continue
		}
		if subject != "" {
			return fmt.Errorf("command, file, config and structure cannot be combined; write one test for each")
		}
		subject = name
	}
	if subject == "" {
		return fmt.Errorf("needs a command, file, config or structure")
	}
	for _, name := range slices.Sorted(maps.Keys(bag)) {
		if name != subject && name != "name" && !slices.Contains(all[subject], name) {
			return fmt.Errorf("%s cannot be combined with %s", name, subject)
		}
	}
	if code, ok := bag["exit-code"]; ok {
		if n, err := strconv.Atoi(code.(string)); err != nil || n < 0 || n > 255 {
			return fmt.Errorf("exit-code %q is not a number from 0 to 255", code)
		}
	}
	return t.validate()
}

// validate checks values, whatever file they come from.
func (t *Test) validate() error {
	for _, w := range []TextCheck{t.Stdout, t.Stderr, t.Content} {
		if err := checkExpressions(slices.Concat(w.Matches, w.Excludes)); err != nil {
			return err
		}
	}
	if c := t.Config; c != nil {
		for _, m := range []map[string]string{c.EnvMatches, c.LabelMatches} {
			for _, e := range m {
				if err := checkExpressions([]string{e}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if t.File == "" {
		if slices.ContainsFunc(append(t.Setup, t.Command), func(c []string) bool { return len(c) == 0 || c[0] == "" }) && t.Structure == "" {
			return fmt.Errorf("empty command")
		}
		return nil
	}
	return t.validateFile()
}

func (t *Test) validateFile() error {
	if !strings.HasPrefix(t.File, "/") {
		return fmt.Errorf("file %q is not an absolute path", t.File)
	}
	if t.Mode != "" {
		_, err := strconv.ParseUint(t.Mode, 8, 12)
		if symbolic := len(t.Mode) == 10 && strings.Trim(t.Mode[1:], "rwxsStT-") == ""; err != nil && !symbolic {
			return fmt.Errorf("invalid mode %q; use octal, such as 0755, or symbolic, such as -rwxr-xr-x", t.Mode)
		}
	}
	switch t.ExecutableBy {
	case "", "owner", "group", "other", "any":
	default:
		return fmt.Errorf("unknown executable-by %q; use owner, group, other or any", t.ExecutableBy)
	}
	more := t.Mode != "" || t.Owner != "" || t.ExecutableBy != "" || !t.Content.Empty()
	if t.Absent && more {
		return fmt.Errorf("exists = false cannot be combined with mode, owner, executable-by or content")
	}
	return nil
}

// Empty says that anything is as wanted.
func (w TextCheck) Empty() bool {
	return w.Exact == nil && len(w.Contains)+len(w.Matches)+len(w.Excludes) == 0
}

func checkExpressions(all []string) error {
	for _, e := range all {
		if _, err := regexp.Compile(e); err != nil {
			return fmt.Errorf("invalid regular expression %q: %w", clip(e), err)
		}
	}
	return nil
}

// Expression compiles a regular expression of a test.
func Expression(e string) (*regexp.Regexp, error) { return regexp.Compile("(?m)" + e) }

// configCheckOf makes a test's config of its attributes.
func configCheckOf(fields []field) (*ConfigCheck, hcl.Diagnostics) {
	bag, diags := decodeFields("test config", configAttributes(), fields)
	c := &ConfigCheck{
		User: set[string](bag, "user"), Workdir: set[string](bag, "workdir"),
		Entrypoint: get[[]string](bag, "entrypoint"), Cmd: get[[]string](bag, "cmd"),
		Env: get[map[string]string](bag, "env"), EnvMatches: get[map[string]string](bag, "env-matches"), NoEnv: get[[]string](bag, "no-env"),
		Labels: get[map[string]string](bag, "labels"), LabelMatches: get[map[string]string](bag, "labels-match"),
		Ports: get[[]string](bag, "ports"), NoPorts: get[[]string](bag, "no-ports"),
		Volumes: get[[]string](bag, "volumes"), NoVolumes: get[[]string](bag, "no-volumes"),
	}
	return c, diags
}
