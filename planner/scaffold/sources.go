package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// needs is what a Dockerfile needs from outside of it.
type needs struct {
	sources []string // paths in the context, without those with variables
	args    []string // build arguments without a value that a FROM uses
}

// needs reads a Dockerfile of the project. set holds its build arguments.
func (w *writer) needs(file string, set map[string]string) (needs, error) {
	raw, err := read(filepath.Join(w.opts.Dir, filepath.FromSlash(file)))
	if errors.Is(err, fs.ErrNotExist) {
		return needs{}, fmt.Errorf("there is no %s", printable(file))
	}
	if err != nil {
		return needs{}, fmt.Errorf("%s: %w", printable(file), err)
	}
	return needsOf(raw, set), nil
}

// needsOf returns what a Dockerfile needs if it is built with some arguments.
func needsOf(raw []byte, set map[string]string) needs {
	parsed, err := parser.Parse(bytes.NewReader(shortLines(raw)))
	if err != nil {
		return needs{} // a plan says why
	}
	var n needs
	lex := shell.NewLex(parsed.EscapeToken)
	known := predefined()
	before := true // the first FROM
	for _, node := range parsed.AST.Children {
		switch strings.ToLower(node.Value) {
		case "arg":
			for w := node.Next; w != nil && before; w = w.Next {
				name, written, hasDefault := strings.Cut(w.Value, "=")
				if value, ok := set[name]; ok {
					known[name] = value
				} else if hasDefault {
					known[name], _, _ = lex.ProcessWord(written, known)
				}
			}
		case "from":
			before = false
			if node.Next != nil {
				n.addBase(lex, node.Next.Value, known)
			}
		case "copy", "add":
			n.addCopied(node)
		case "run":
			n.addMounted(node)
		}
	}
	return n
}

// arguments are build arguments by name.
type arguments map[string]string

// Get implements shell.EnvGetter.
func (a arguments) Get(name string) (string, bool) {
	v, ok := a[name]
	return v, ok
}

// Keys implements shell.EnvGetter.
func (a arguments) Keys() []string { return sortedKeys(a) }

// predefined returns the arguments that BuildKit sets for FROM.
func predefined() arguments {
	all := arguments{"TARGETSTAGE": "default"}
	for _, prefix := range []string{"TARGET", "BUILD"} {
		for name, value := range map[string]string{
			"PLATFORM": "linux/amd64", "OS": "linux", "OSVERSION": "", "ARCH": "amd64", "VARIANT": "",
		} {
			all[prefix+name] = value
		}
	}
	return all
}

// addBase adds the arguments without a value in an image reference that is invalid without them.
func (n *needs) addBase(lex *shell.Lex, ref string, known arguments) {
	result, err := lex.ProcessWordWithMatches(ref, known)
	if err != nil || len(result.Unmatched) == 0 {
		return
	}
	if _, err := reference.ParseNormalizedNamed(result.Result); err == nil {
		return
	}
	for name := range result.Unmatched {
		if !slices.Contains(n.args, name) {
			n.args = append(n.args, name)
		}
	}
	slices.Sort(n.args)
}

// addCopied adds the sources of a COPY or ADD from the context.
func (n *needs) addCopied(node *parser.Node) {
	for _, flag := range node.Flags {
		if strings.HasPrefix(flag, "--from") {
			return
		}
	}
	var values []string
	for w := node.Next; w != nil; w = w.Next {
		values = append(values, w.Value)
	}
	for i, w := range values {
		if i == len(values)-1 || strings.HasPrefix(w, "<<") || strings.Contains(w, "://") ||
			strings.HasPrefix(w, "git@") {
			continue
		}
		if !node.Attributes["json"] {
			w = strings.Trim(w, `"'`)
		}
		n.addSource(w)
	}
}

// addMounted adds the sources of bind mounts from the context.
func (n *needs) addMounted(node *parser.Node) {
	for _, flag := range node.Flags {
		mount, ok := strings.CutPrefix(flag, "--mount=")
		if !ok || strings.Contains(mount, "from=") || strings.Contains(mount, "type=") &&
			!strings.Contains(mount, "type=bind") {
			continue
		}
		for field := range strings.SplitSeq(mount, ",") {
			if key, value, _ := strings.Cut(field, "="); key == "source" || key == "src" {
				n.addSource(strings.Trim(value, `"'`))
			}
		}
	}
}

func (n *needs) addSource(s string) {
	s = strings.TrimPrefix(path.Clean("/"+s), "/")
	if s == "" || strings.Contains(s, "$") || slices.Contains(n.sources, s) {
		return
	}
	n.sources = append(n.sources, s)
}

// missing returns the sources that a directory lacks, or that the ignore file hides. dockerfile may be "".
func (n needs) missing(root, dir, dockerfile string) []string {
	if len(n.sources) == 0 {
		return nil
	}
	ignored := ignoredIn(root, dir, dockerfile)
	files := os.DirFS(filepath.Join(root, filepath.FromSlash(dir)))
	var all []string
	for _, s := range n.sources {
		found := []string{s}
		if _, err := fs.Stat(files, s); err != nil { // a name may have the characters of a pattern
			found, _ = fs.Glob(files, s) // an invalid pattern finds nothing, as in a build
		}
		switch {
		case len(found) == 0:
			all = append(all, s)
		case !slices.ContainsFunc(found, func(f string) bool { return !ignored(f) }):
			all = append(all, s+" (the ignore file leaves it out)")
		}
	}
	return all
}

// ignoredIn returns a function that reports whether the ignore file of a Dockerfile, else that of its context, leaves a
// path out with everything below it.
func ignoredIn(root, dir, dockerfile string) func(string) bool {
	none := func(string) bool { return false }
	raw, err := read(filepath.Join(root, filepath.FromSlash(dockerfile)) + ".dockerignore")
	if dockerfile == "" || err != nil {
		raw, err = read(filepath.Join(root, filepath.FromSlash(dir), ".dockerignore"))
	}
	if err != nil {
		return none
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(raw))
	if err != nil {
		return none
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return none
	}
	return func(path string) bool {
		out, err := matcher.MatchesOrParentMatches(path)
		if err != nil || !out {
			return false
		}
		for _, p := range matcher.Patterns() { // !path/x brings back a part of it; so may !*/x
			text := strings.TrimPrefix(filepath.ToSlash(p.String()), "/")
			if p.Exclusion() && (strings.HasPrefix(text, path+"/") || strings.HasPrefix(text, "*")) {
				return false
			}
		}
		return true
	}
}

// contextOf returns the directory that is the context of a Dockerfile: the nearest one above it, up to root, that has
// all its sources; its own if there is none.
func (n needs) contextOf(root, dockerfile string) string {
	own := path.Dir(dockerfile)
	for dir := own; ; dir = path.Dir(dir) {
		if len(n.missing(root, dir, dockerfile)) == 0 {
			return dir
		}
		if dir == "." {
			return own
		}
	}
}

// reasons says why a Dockerfile cannot be built in a context as it is.
func (n needs) reasons(root, context, dockerfile string) []string {
	var all []string
	if missing := n.missing(root, context, dockerfile); len(missing) > 0 {
		all = append(all, "the context "+printable(context)+" has no "+some(missing))
	}
	if len(n.args) > 0 {
		all = append(all, "set args: "+some(n.args))
	}
	return all
}
