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

// maxTests is the maximum number of tests of one target, including those of structure files.
const maxTests = 2000

// Test is one test of a built image: of a command that runs in it, of one of its files, or of its config. Exactly one
// of Command, File, Config and Structure is set. Load replaces a Structure by the tests in that file.
type Test struct {
	Name string `json:",omitempty"`
	At   Range  `json:",omitzero"` // position of the definition

	Command  []string          `json:",omitempty"`
	Setup    [][]string        `json:",omitempty"` // run before Command on the same files; each must exit with 0
	Env      map[string]string `json:",omitempty"` // added to the image's; $NAME and ${NAME} expand to its variables
	User     string            `json:",omitempty"` // "": the image's user
	ExitCode int               `json:",omitempty"`
	Stdout   TextCheck         `json:",omitzero"`
	Stderr   TextCheck         `json:",omitzero"`

	File         string    `json:",omitempty"` // absolute path; symbolic links are followed
	Absent       bool      `json:",omitempty"` // the file must not exist
	Mode         string    `json:",omitempty"` // octal, or symbolic as in ls: -rwxr-xr-x
	Owner        string    `json:",omitempty"` // USER, USER:GROUP or :GROUP, by name or number
	ExecutableBy string    `json:",omitempty"` // owner, group, other or any
	Content      TextCheck `json:",omitzero"`

	Config    *ConfigCheck `json:",omitempty"`
	Structure string       `json:",omitempty"` // path of a container-structure-test file, relative to Project.Dir
}

// TextCheck is the expectation for a text. In regular expressions ^ and $ match at the start and end of each line.
type TextCheck struct {
	Exact                       *string  `json:",omitempty"`
	Contains, Matches, Excludes []string `json:",omitempty"` // the last two are regular expressions
}

// ConfigCheck is the expectation for the config of an image. A nil field is not checked. Maps and lists must be
// contained in those of the image, except Entrypoint and Cmd, which must be equal.
type ConfigCheck struct {
	User, Workdir        *string           `json:",omitempty"`
	Entrypoint, Cmd      []string          // nil: not checked
	Env, EnvMatches      map[string]string `json:",omitempty"`
	NoEnv                []string          `json:",omitempty"`
	Labels, LabelMatches map[string]string `json:",omitempty"`
	Ports, NoPorts       []string          `json:",omitempty"` // 8080 or 8080/tcp
	Volumes, NoVolumes   []string          `json:",omitempty"`
}

// testAttributes returns the schema of a test.
func testAttributes() []attribute {
	rows := []attribute{
		{name: "command", kind: kindCommand, doc: "A command to run in the image: a list, or a string for `/bin/sh " +
			"-c`. " +
			"Its changes to files are discarded."},
		{name: "setup", kind: kindCommands, doc: "Commands to run before it on the same files; each must succeed."},
		{name: "env", kind: kindMap, doc: "Additional variables of the command; `$NAME` expands to one of the image."},
		{name: "user", kind: kindString, doc: "The user that runs the command; the image's user by default."},
		{name: "exit-code", kind: kindString, doc: "The expected exit code; 0 by default."},
	}
	for _, stream := range []string{"stdout", "stderr"} {
		rows = append(rows, textRows(stream, "The output on "+stream)...)
	}
	rows = append(rows,
		attribute{name: "file", kind: kindString,
			doc: "The absolute path of a file or directory to check; symbolic links are followed."},
		attribute{name: "exists", kind: kindBool, doc: "Whether it must exist; true by default."},
		attribute{name: "mode", kind: kindString,
			doc: "The expected mode: octal, such as `0755`, or symbolic, as in `ls -l`."},
		attribute{name: "owner", kind: kindString,
			doc: "The expected owner: `USER`, `USER:GROUP` or `:GROUP`, by name or number."},
		attribute{name: "executable-by", kind: kindString,
			doc: "Who may execute it: `owner`, `group`, `other` or `any`."})
	rows = append(rows, textRows("content", "The content of the file")...)
	return append(rows,
		attribute{name: "config", kind: kindConfig,
			doc: "The expected config of the image: an object or a block, see below."},
		attribute{name: "structure", kind: kindString,
			doc: "A file of tests for container-structure-test, schema 2.0.0."})
}

func textRows(name, subject string) []attribute {
	return []attribute{
		{name: name, kind: kindString, doc: subject + " must be equal to this."},
		{name: name + "-contains", kind: kindStrings, merge: mergeRepeat,
			doc: subject + " must contain each of these."},
		{name: name + "-matches", kind: kindStrings, merge: mergeRepeat,
			doc: subject + " must match each of these regular expressions; `^` and `$` match at each line."},
		{name: name + "-excludes", kind: kindStrings, merge: mergeRepeat,
			doc: subject + " must match none of these regular expressions."},
	}
}

// configAttributes returns the schema of the config of a test.
func configAttributes() []attribute {
	return []attribute{
		{name: "user", kind: kindString, doc: "The user."},
		{name: "workdir", kind: kindString, doc: "The working directory."},
		{name: "entrypoint", kind: kindStrings, merge: mergeRepeat, doc: "The complete entrypoint."},
		{name: "cmd", kind: kindStrings, merge: mergeRepeat, doc: "The complete command."},
		{name: "env", kind: kindMap, doc: "Environment variables that must be set."},
		{name: "env-matches", kind: kindMap,
			doc: "Environment variables, each with a regular expression for its value."},
		{name: "no-env", kind: kindStrings, doc: "Environment variables that must not be set."},
		{name: "labels", kind: kindMap, doc: "Labels that must be set."},
		{name: "labels-match", kind: kindMap, doc: "Labels, each with a regular expression for its value."},
		{name: "ports", kind: kindStrings, doc: "Ports that must be exposed, such as `8080` or `53/udp`."},
		{name: "no-ports", kind: kindStrings, doc: "Ports that must not be exposed."},
		{name: "volumes", kind: kindStrings, doc: "Volumes that must be declared."},
		{name: "no-volumes", kind: kindStrings, doc: "Volumes that must not be declared."},
	}
}

// field is one attribute of a test, evaluated.
type field struct {
	name  string
	at    hcl.Range
	value cty.Value
}

// newTest returns the test with the given attributes.
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

// decodeFields decodes attributes according to a table. what describes their owner in messages.
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

// fill sets the fields of a test without checking them; see check.
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

// subject returns a name for a test that has none: what it tests.
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

// testSubjects returns the attributes of which a test must have exactly one, each with the attributes that it allows.
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

// check checks the combination of attributes in bag, from which t was filled, and their values.
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

// validate checks the values of a test from any kind of file.
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
		empty := func(c []string) bool { return len(c) == 0 || c[0] == "" }
		if slices.ContainsFunc(append(t.Setup, t.Command), empty) && t.Structure == "" {
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

// Empty reports whether every text meets the expectation.
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

// Expression compiles a regular expression of a test: ^ and $ match at the start and end of each line.
func Expression(e string) (*regexp.Regexp, error) { return regexp.Compile("(?m)" + e) }

// configCheckOf returns the config of a test with the given attributes.
func configCheckOf(fields []field) (*ConfigCheck, hcl.Diagnostics) {
	bag, diags := decodeFields("test config", configAttributes(), fields)
	c := &ConfigCheck{
		User: set[string](bag, "user"), Workdir: set[string](bag, "workdir"),
		Entrypoint: get[[]string](bag, "entrypoint"), Cmd: get[[]string](bag, "cmd"),
		Env: get[map[string]string](bag, "env"), EnvMatches: get[map[string]string](bag,
			"env-matches"), NoEnv: get[[]string](bag, "no-env"),
		Labels: get[map[string]string](bag, "labels"), LabelMatches: get[map[string]string](bag, "labels-match"),
		Ports: get[[]string](bag, "ports"), NoPorts: get[[]string](bag, "no-ports"),
		Volumes: get[[]string](bag, "volumes"), NoVolumes: get[[]string](bag, "no-volumes"),
	}
	return c, diags
}
