// Package scaffold writes a project file for the compose files and Dockerfiles of a directory.
package scaffold

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/bakebuild/bake/config"
)

// Project is a new project file.
type Project struct {
	Text    string // in HCL
	Targets int
	Compose []string // compose files whose services are targets
	Notes   []string // what a maintainer should look at
}

// ErrNothing is returned for a directory without a compose file that builds something and without Dockerfiles.
type ErrNothing struct{ Dir string }

// Error implements error.
func (e ErrNothing) Error() string {
	return fmt.Sprintf("no compose file with a build section in %s, and no Dockerfile in or below it", e.Dir)
}

// target is one target of the new file.
type target struct {
	name    string
	text    string   // the block
	context string   // relative path or URL
	file    string   // the Dockerfile, relative to the project; "" if it is not a local file
	reasons []string // why it is not in the group "default"
}

// maxNotes bounds the notes; the comments in the file say the same.
const maxNotes = 20

// writer collects the targets of a new file.
type writer struct {
	dir       string
	targets   []target
	variables []string
	used      map[string]bool   // names
	built     map[string]string // targets by Dockerfile, context and stage
	project   Project
}

// New returns a project file for dir: a target for each service with a build section of each compose file, one for each
// Dockerfile that no compose file names, and the group "default". Targets whose sources are not there are not in the
// group, so that a build of the file can succeed.
func New(ctx context.Context, dir string) (Project, error) {
	f, err := find(dir)
	if err != nil {
		return Project{}, err
	}
	w := &writer{dir: dir, used: map[string]bool{"default": true}, built: map[string]string{}}
	for _, name := range f.compose {
		w.addCompose(ctx, name)
	}
	w.addDockerfiles(f.dockerfiles)
	if len(w.targets) == 0 {
		return Project{}, ErrNothing{dir}
	}
	return w.finish(), nil
}

// addCompose adds the services of a compose file. A file that cannot be read alone, such as one that overrides parts of
// another, is noted.
func (w *writer) addCompose(ctx context.Context, name string) {
	c, err := config.FromCompose(ctx, w.dir, name)
	if err != nil {
		text, _, _ := strings.Cut(err.Error(), "\n")
		w.note("%s was left out: %s", name, text)
		return
	}
	added := 0
	for _, t := range c.Targets {
		file := ""
		if !t.Inline && !strings.Contains(t.Context, "://") && !strings.Contains(t.Context+t.Dockerfile, "${") {
			file = path.Join(t.Context, t.Dockerfile)
			if path.IsAbs(t.Dockerfile) {
				file = ""
			}
		}
		key := file + "\n" + t.Context + "\n" + t.Stage
		if w.built[key] != "" && file != "" {
			continue // another compose file has the same build
		}
		one := target{name: w.freeName(t.Name, name), context: t.Context, file: file, text: t.Text}
		if one.name != t.Name {
			was := fmt.Sprintf("target %q", t.Name)
			one.text = strings.Replace(one.text, was, fmt.Sprintf("target %q", one.name), 1)
		}
		if file != "" {
			one.reasons = w.reasons(file, t.Context)
		}
		if len(t.Requires) > 0 {
			one.reasons = append(one.reasons, "set "+some(t.Requires))
		}
		w.built[key] = one.name
		w.targets = append(w.targets, one)
		added++
	}
	if added > 0 {
		w.project.Compose = append(w.project.Compose, name)
		w.addVariables(c.Variables)
	}
}

// freeName returns the name of a service, with what the name of its compose file adds if it is taken.
func (w *writer) freeName(name, file string) string {
	if name == "default" {
		name = "app"
	}
	base := strings.TrimSuffix(path.Base(file), path.Ext(file))
	base = strings.TrimPrefix(strings.TrimPrefix(base, "docker-"), "compose")
	free := name
	for _, more := range []string{strings.Trim(base, ".-_"), path.Base(path.Dir(file))} {
		if !w.used[free] {
			break
		}
		if !generic(more) {
			free = name + "-" + sanitized(more)
		}
	}
	for n := 2; w.used[free]; n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	w.used[free] = true
	return free
}

// addVariables adds variable blocks. Of several with one name the first remains.
func (w *writer) addVariables(blocks []string) {
	for _, b := range blocks {
		head, _, _ := strings.Cut(b, "\n")
		known := func(other string) bool { return strings.HasPrefix(other, head+"\n") }
		if !slices.ContainsFunc(w.variables, known) {
			w.variables = append(w.variables, b)
		}
	}
}

// addDockerfiles adds the Dockerfiles that no target has yet.
func (w *writer) addDockerfiles(all []string) {
	named := map[string]bool{}
	for _, t := range w.targets {
		named[t.file] = true
	}
	all = slices.DeleteFunc(slices.Clone(all), func(f string) bool { return named[f] })
	root := "app"
	if abs, err := filepath.Abs(w.dir); err == nil {
		root = filepath.Base(abs)
	}
	for i, name := range namesOf(root, all, w.used) {
		w.targets = append(w.targets, w.fromDockerfile(name, all[i]))
	}
}

// fromDockerfile returns the target of a Dockerfile.
func (w *writer) fromDockerfile(name, file string) target {
	raw, _ := read(filepath.Join(w.dir, filepath.FromSlash(file))) // find has read it
	n := needsOf(raw)
	dir, _ := n.contextOf(w.dir, file)
	rel := file
	if dir != "." {
		rel = strings.TrimPrefix(file, dir+"/")
	}
	lines := fmt.Sprintf("target %q {\n", name)
	if dir != "." {
		lines += fmt.Sprintf("context = %s\n", config.Quote(dir))
	}
	if rel != "Dockerfile" {
		lines += fmt.Sprintf("dockerfile = %s\n", config.Quote(rel))
	}
	lines += fmt.Sprintf("tags = [%q]\n}\n", strings.ToLower(name))
	return target{name: name, file: file, context: dir, text: string(hclwrite.Format([]byte(lines))),
		reasons: w.reasons(file, dir)}
}

// reasons says why a Dockerfile cannot be built in a context as it is.
func (w *writer) reasons(file, context string) []string {
	raw, err := read(filepath.Join(w.dir, filepath.FromSlash(file)))
	if os.IsNotExist(err) {
		return []string{"there is no " + file}
	}
	if err != nil {
		return []string{err.Error()}
	}
	n := needsOf(raw)
	var all []string
	if missing := n.missing(filepath.Join(w.dir, filepath.FromSlash(context))); len(missing) > 0 {
		all = append(all, "the context "+context+" has no "+some(missing))
	}
	if len(n.args) > 0 {
		all = append(all, "set args: "+some(n.args))
	}
	return all
}

// some returns up to three of the texts.
func some(all []string) string {
	if len(all) > 3 {
		return strings.Join(all[:3], ", ") + fmt.Sprintf(" and %d more", len(all)-3)
	}
	return strings.Join(all, ", ")
}

func (w *writer) note(format string, args ...any) {
	w.project.Notes = append(w.project.Notes, fmt.Sprintf(format, args...))
}

// finish returns the project file.
func (w *writer) finish() Project {
	var blocks []string
	var names []string
	for _, t := range w.targets {
		if len(t.reasons) == 0 {
			names = append(names, fmt.Sprintf("%q", t.name))
		}
	}
	list := "[" + strings.Join(names, ", ") + "]"
	if len(list) > 80 {
		list = "[\n" + strings.Join(names, ",\n") + ",\n]"
	}
	blocks = append(blocks, string(hclwrite.Format(fmt.Appendf(nil, "group \"default\" {\ntargets = %s\n}\n", list))))
	slices.Sort(w.variables)
	blocks = slices.Concat(w.variables, blocks)
	for _, t := range w.targets {
		text := t.text
		if len(t.reasons) > 0 {
			text = "# Not in the group \"default\": " + strings.Join(t.reasons, "; ") + ".\n" + text
			w.note("target %s is not in the group \"default\": %s", t.name, strings.Join(t.reasons, "; "))
		}
		blocks = append(blocks, text)
	}
	if more := len(w.project.Notes) - maxNotes; more > 0 {
		w.project.Notes = w.project.Notes[:maxNotes]
		w.note("and %d more; see the comments in the file", more)
	}
	w.project.Text = strings.Join(blocks, "\n")
	w.project.Targets = len(w.targets)
	return w.project
}
