package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"gopkg.in/yaml.v3"
)

// structureVersion is the supported schema version of container-structure-test.
const structureVersion = "2.0.0"

// expandTests replaces each test that names a structure file by the tests in that file.
func (l *loader) expandTests(t *Target) hcl.Diagnostics {
	var all []Test
	var diags hcl.Diagnostics
	for _, one := range t.Tests {
		if one.Structure == "" {
			all = append(all, one)
			continue
		}
		if l.remote == nil {
			t.Structures = append(t.Structures, one.Structure)
		}
		more, errs := l.structure(one)
		diags = append(diags, errs...)
		all = append(all, more...)
	}
	t.Tests = all
	if len(all) > maxTests {
		at := l.attrRange(t.Name, "test")
		diags = append(diags, problem(&at, "target %s has %d tests; at most %d are allowed", t.Name, len(all),
			maxTests))
	}
	return diags
}

// structure reads the structure file of a test.
func (l *loader) structure(of Test) ([]Test, hcl.Diagnostics) {
	pos := hcl.Pos{Line: of.At.Line, Column: of.At.Col}
	at := hcl.Range{Filename: of.At.File, Start: pos, End: pos}
	read := func(name string) ([]byte, error) {
		if name == "-" {
			return nil, errors.New("standard input is not supported")
		}
		return readFile(l.opts, name)
	}
	if l.remote != nil {
		read = l.remote.read
	}
	raw, err := read(of.Structure)
	if err != nil {
		return nil, hcl.Diagnostics{problem(&at, "tests of %s: %v", of.Structure, err)}
	}
	l.files[of.Structure] = &hcl.File{Bytes: raw}
	s := &structureReader{name: of.Structure}
	s.read(raw)
	return s.tests, s.diags
}

// structureReader reads a container-structure-test file. Unknown fields are errors with a position: a test that is not
// understood must not appear to pass.
type structureReader struct {
	name  string
	tests []Test
	diags hcl.Diagnostics
	env   map[string]string // for all commands
	user  string
}

// keys maps the keys that a mapping may have to the functions that read their values.
type keys map[string]func(*yaml.Node)

func (s *structureReader) read(raw []byte) {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		s.diags = append(s.diags, yamlProblem(s.name, err))
		return
	}
	if len(doc.Content) == 0 {
		s.diags = append(s.diags, problem(nil, "%s is empty; expected schemaVersion: %s", s.name, structureVersion))
		return
	}
	r := &yamlReader{doc: &document{name: s.name}}
	if s.diags = r.bounded(doc.Content[0], 0); s.diags.HasErrors() {
		return
	}
	version := ""
	s.mapping(doc.Content[0], "file of tests", keys{
		"schemaVersion": s.text(&version), "globalEnvVars": s.variables(&s.env),
		"commandTests": s.each(s.command), "fileExistenceTests": s.each(s.existence),
		"fileContentTests": s.each(s.content),
		"metadataTest":     s.metadata, "containerRunOptions": s.runOptions,
		"licenseTests": s.refuse("licenseTests are not supported; use fileContentTests"),
	})
	if version != structureVersion && len(s.diags) == 0 {
		s.problem(doc.Content[0], "unsupported schemaVersion %q; use %q", version, structureVersion)
	}
	for i := range s.tests { // at the end, since globalEnvVars may follow the commands
		t := &s.tests[i]
		if len(t.Command) == 0 {
			continue
		}
		env := maps.Clone(s.env)
		if env == nil {
			env = map[string]string{}
		}
		maps.Copy(env, t.Env)
		t.Env, t.User = env, s.user
	}
}

func (s *structureReader) problem(n *yaml.Node, format string, args ...any) {
	at := yamlRange(s.name, n)
	s.diags = append(s.diags, problem(&at, format, args...))
}

func (s *structureReader) refuse(why string) func(*yaml.Node) {
	return func(n *yaml.Node) { s.problem(n, "%s", why) }
}

// mapping reads a mapping. Unknown fields are errors.
func (s *structureReader) mapping(n *yaml.Node, what string, known keys) {
	n = resolved(n)
	if n.Kind != yaml.MappingNode {
		s.problem(n, "expected a mapping, got %s", yamlKind(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		read, ok := known[key.Value]
		if !ok {
			hint := nearest(key.Value, slices.Collect(maps.Keys(known)))
			s.problem(key, "unknown field %q in %s%s", key.Value, what, hint)
			continue
		}
		read(resolved(n.Content[i+1]))
	}
}

func (s *structureReader) each(one func(*yaml.Node)) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Tag == "!!null" {
			return
		}
		if n.Kind != yaml.SequenceNode {
			s.problem(n, "expected a list, got %s", yamlKind(n))
			return
		}
		for _, item := range n.Content {
			one(resolved(item))
		}
	}
}

func (s *structureReader) text(to *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode {
			s.problem(n, "expected a string, got %s", yamlKind(n))
			return
		}
		*to = n.Value
	}
}

func (s *structureReader) number(to *int) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			s.problem(n, "expected a number, got %s", yamlKind(n))
		}
		*to = v
	}
}

func (s *structureReader) switched(to *bool) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if err := n.Decode(to); err != nil {
			s.problem(n, "expected true or false, got %s", yamlKind(n))
		}
	}
}

func (s *structureReader) texts(to *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*to = []string{}
		s.each(func(item *yaml.Node) {
			var one string
			s.text(&one)(item)
			*to = append(*to, one)
		})(n)
	}
}

func (s *structureReader) commands(to *[][]string) func(*yaml.Node) {
	return s.each(func(n *yaml.Node) {
		var argv []string
		s.texts(&argv)(n)
		*to = append(*to, argv)
	})
}

// pairs reads a list of {key, value, isRegex} into one map for each of the two.
func (s *structureReader) pairs(plain, matches *map[string]string) func(*yaml.Node) {
	return s.each(func(n *yaml.Node) {
		var key, value string
		regex := false
		s.mapping(n, "variable or label", keys{"key": s.text(&key), "value": s.text(&value),
			"isRegex": s.switched(&regex)})
		to := plain
		if regex {
			to = matches
		}
		if *to == nil {
			*to = map[string]string{}
		}
		(*to)[key] = value
	})
}

func (s *structureReader) variables(to *map[string]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var expressions map[string]string
		s.pairs(to, &expressions)(n)
		if len(expressions) > 0 {
			s.problem(n, "isRegex is not supported for a variable that is set")
		}
	}
}

// add appends a test and reports invalid values.
func (s *structureReader) add(n *yaml.Node, t Test) {
	t.At = rangeOf(yamlRange(s.name, n))
	if t.Name == "" {
		t.Name = t.subject()
	}
	if err := t.validate(); err != nil && !s.reported(n) {
		s.problem(n, "test %s: %v", t.Name, err)
	}
	s.tests = append(s.tests, t)
}

// reported reports whether the diagnostics already contain one for a node: one at or below its line. Items are read in
// the order of the file, so no later item has a diagnostic yet.
func (s *structureReader) reported(n *yaml.Node) bool {
	return slices.ContainsFunc(s.diags, func(d *hcl.Diagnostic) bool {
		return d.Subject != nil && d.Subject.Start.Line >= n.Line
	})
}

// command reads a command test. Its changes to files are discarded, so teardown has nothing to do and is ignored.
func (s *structureReader) command(n *yaml.Node) {
	var t Test
	var command string
	var args []string
	var teardown [][]string
	s.mapping(n, "command test", keys{
		"name": s.text(&t.Name), "command": s.text(&command), "args": s.texts(&args), "exitCode": s.number(&t.ExitCode),
		"setup": s.commands(&t.Setup), "teardown": s.commands(&teardown), "envVars": s.variables(&t.Env),
		"expectedOutput": s.texts(&t.Stdout.Matches), "excludedOutput": s.texts(&t.Stdout.Excludes),
		"expectedError": s.texts(&t.Stderr.Matches), "excludedError": s.texts(&t.Stderr.Excludes),
	})
	t.Command = append([]string{command}, args...)
	s.add(n, t)
}

func (s *structureReader) existence(n *yaml.Node) {
	var t Test
	exists := true
	uid, gid := -1, -1
	s.mapping(n, "file existence test", keys{
		"name": s.text(&t.Name), "path": s.text(&t.File), "shouldExist": s.switched(&exists),
		"permissions": s.text(&t.Mode),
		"uid":         s.number(&uid), "gid": s.number(&gid), "isExecutableBy": s.text(&t.ExecutableBy),
	})
	t.Absent = !exists
	if uid >= 0 {
		t.Owner = strconv.Itoa(uid)
	}
	if gid >= 0 {
		t.Owner += ":" + strconv.Itoa(gid)
	}
	if t.Absent { // container-structure-test ignores the other fields then
		t.Mode, t.Owner, t.ExecutableBy = "", "", ""
	}
	s.file(n, t)
}

func (s *structureReader) content(n *yaml.Node) {
	var t Test
	s.mapping(n, "file content test", keys{
		"name": s.text(&t.Name), "path": s.text(&t.File),
		"expectedContents": s.texts(&t.Content.Matches), "excludedContents": s.texts(&t.Content.Excludes),
	})
	s.file(n, t)
}

func (s *structureReader) file(n *yaml.Node, t Test) {
	if t.File == "" {
		s.problem(n, "test has no path")
		return
	}
	if !strings.HasPrefix(t.File, "/") {
		t.File = "/" + t.File
	}
	s.add(n, t)
}

func (s *structureReader) metadata(n *yaml.Node) {
	c := &ConfigCheck{}
	var user, workdir string
	pointer := func(to **string, value *string) func(*yaml.Node) {
		return func(n *yaml.Node) { s.text(value)(n); *to = value }
	}
	env := s.pairs(&c.Env, &c.EnvMatches)
	s.mapping(n, "metadata test", keys{
		"env": env, "envVars": env, "unboundEnvVars": func(n *yaml.Node) {
			unset := map[string]string{}
			s.pairs(&unset, &unset)(n)
			c.NoEnv = slices.Sorted(maps.Keys(unset))
		},
		"labels": s.pairs(&c.Labels, &c.LabelMatches), "entrypoint": s.texts(&c.Entrypoint), "cmd": s.texts(&c.Cmd),
		"exposedPorts": s.texts(&c.Ports), "unexposedPorts": s.texts(&c.NoPorts),
		"volumes": s.texts(&c.Volumes), "unmountedVolumes": s.texts(&c.NoVolumes),
		"workdir": pointer(&c.Workdir, &workdir), "user": pointer(&c.User, &user),
	})
	s.add(n, Test{Name: "metadata", Config: c})
}

// runOptions reads the options of docker run. Only user is supported.
func (s *structureReader) runOptions(n *yaml.Node) {
	known := keys{"user": s.text(&s.user)}
	for _, name := range []string{"privileged", "allocateTty", "envFile", "envVars", "capabilities", "bindMounts"} {
		known[name] = s.refuse(fmt.Sprintf("%s is not supported: a test runs with the permissions of a step", name))
	}
	s.mapping(n, "set of run options", known)
}
