package scaffold

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// needs is what a Dockerfile needs from outside of it.
type needs struct {
	sources []string // paths in the context, without those with variables
	args    []string // build arguments without a default that a FROM uses
}

// needsOf reads a Dockerfile.
func needsOf(raw []byte) needs {
	parsed, err := parser.Parse(bytes.NewReader(shortLines(raw)))
	if err != nil {
		return needs{}
	}
	var n needs
	unset := map[string]bool{}
	before := true // the first FROM
	for _, node := range parsed.AST.Children {
		switch strings.ToLower(node.Value) {
		case "arg":
			for w := node.Next; w != nil && before; w = w.Next {
				name, _, hasDefault := strings.Cut(w.Value, "=")
				unset[name] = !hasDefault && !isPredefined(name)
			}
		case "from":
			before = false
			if node.Next != nil {
				n.addUnset(node.Next.Value, unset)
			}
		case "copy", "add":
			n.addCopied(node)
		case "run":
			n.addMounted(node)
		}
	}
	return n
}

// isPredefined reports whether BuildKit sets an argument.
func isPredefined(name string) bool {
	return strings.HasPrefix(name, "TARGET") || strings.HasPrefix(name, "BUILD")
}

// addUnset adds the arguments without a value in an image reference.
func (n *needs) addUnset(ref string, unset map[string]bool) {
	for name, is := range unset {
		if is && (strings.Contains(ref, "${"+name+"}") || ref == "$"+name || strings.Contains(ref, "$"+name+":") ||
			strings.Contains(ref, "$"+name+"/")) && !slices.Contains(n.args, name) {
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
				n.addSource(value)
			}
		}
	}
}

func (n *needs) addSource(s string) {
	s = strings.TrimPrefix(path.Clean("/"+strings.Trim(s, `"'`)), "/")
	if s == "" || strings.Contains(s, "$") || slices.Contains(n.sources, s) {
		return
	}
	n.sources = append(n.sources, s)
}

// missing returns the sources that are not in a directory.
func (n needs) missing(dir string) []string {
	var all []string
	for _, s := range n.sources {
		if strings.ContainsAny(s, "*?[") {
			if found, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(s))); err != nil || len(found) == 0 {
				all = append(all, s)
			}
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(s))); err != nil {
			all = append(all, s)
		}
	}
	return all
}

// contextOf returns the directory that is the context of a Dockerfile: the nearest one above it, up to root, that has
// all its sources. If there is none, it is the Dockerfile's own, and missing lists what it lacks.
func (n needs) contextOf(root, dockerfile string) (dir string, missing []string) {
	own := path.Dir(dockerfile)
	for dir = own; ; dir = path.Dir(dir) {
		lacks := n.missing(filepath.Join(root, filepath.FromSlash(dir)))
		if len(lacks) == 0 {
			return dir, nil
		}
		if missing == nil {
			missing = lacks
		}
		if dir == "." {
			return own, missing
		}
	}
}
