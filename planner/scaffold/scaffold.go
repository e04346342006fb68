// Package scaffold writes a project file for the compose files and Dockerfiles of a directory.
package scaffold

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/bakebuild/bake/config"
)

// Project is a new project file.
type Project struct {
	Text    string // in HCL, unless From says otherwise
	Targets int
	Compose []string // compose files whose services are targets
	Notes   []string // what a maintainer should look at
}

// ErrNothing is returned for a directory without a compose file that builds something and without Dockerfiles.
type ErrNothing struct {
	Dir   string
	Notes []string // files and services that could not be converted
}

// Error implements error.
func (e ErrNothing) Error() string {
	text := fmt.Sprintf("no compose file with a build section in %s, and no Dockerfile in or below it", e.Dir)
	return strings.Join(append([]string{text}, e.Notes...), "\n")
}

// target is one target of the new file.
type target struct {
	name    string
	text    string   // the block
	links   []string // names of the targets that are contexts
	file    string   // the Dockerfile, relative to the project; "" if it is not a local file
	reasons []string // why it is not in the group "default"
	remote  bool     // a context is a URL, so that it can only be planned with a network
}

// maxNotes bounds the notes; the comments in the file say the same.
const maxNotes = 20

// writer collects the targets of a new file.
type writer struct {
	opts    config.Options
	builds  *config.ComposeBuilds
	files   []*composeFile
	targets []*target
	used    map[string]bool    // names
	written map[string]*target // targets of earlier compose files by their text
	project Project
}

func newWriter(opts config.Options) *writer {
	return &writer{opts: opts, builds: config.NewComposeBuilds(opts), used: map[string]bool{"default": true},
		written: map[string]*target{}}
}

// New returns a project file for the directory of the options: a target for each service with a build section of each
// compose file, one for each Dockerfile that no compose file names, and the group "default". A target that cannot be
// planned as it is, or whose sources are not there, is not in the group.
//
// The options give the directory and HOME. No other variable is used.
func New(ctx context.Context, opts config.Options) (Project, error) {
	f, err := find(ctx, opts.Dir)
	if err != nil {
		return Project{}, err
	}
	w := newWriter(opts)
	w.project.Notes = f.notes
	for _, files := range f.compose {
		if err := w.readCompose(ctx, files); err != nil {
			return Project{}, err
		}
	}
	w.placeServices()
	if err := w.addDockerfiles(ctx, f.dockerfiles); err != nil {
		return Project{}, err
	}
	if len(w.targets) == 0 {
		return Project{}, ErrNothing{opts.Dir, w.project.Notes}
	}
	return w.finish(ctx)
}

// addDockerfiles adds the Dockerfiles that no target has yet.
func (w *writer) addDockerfiles(ctx context.Context, all []string) error {
	named := map[string]bool{}
	for _, t := range w.targets {
		named[t.file] = true
	}
	all = slices.DeleteFunc(slices.Clone(all), func(f string) bool { return named[f] })
	for i, name := range namesOf(filepath.Base(w.opts.Dir), all, w.used) {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.targets = append(w.targets, w.fromDockerfile(name, all[i]))
	}
	return nil
}

// fromDockerfile returns the target of a Dockerfile.
func (w *writer) fromDockerfile(name, file string) *target {
	t := &target{name: name, file: file}
	n, err := w.needs(file, nil)
	if err != nil {
		t.reasons = []string{err.Error()}
	}
	dir := n.contextOf(w.opts.Dir, file)
	t.reasons = append(t.reasons, n.reasons(w.opts.Dir, dir, file)...)
	rel := file
	if dir != "." {
		rel = strings.TrimPrefix(file, dir+"/")
	}
	lines := fmt.Sprintf("target %s {\n", config.Quote(name))
	if dir != "." {
		lines += fmt.Sprintf("context = %s\n", config.Quote(dir))
	}
	if rel != "Dockerfile" {
		lines += fmt.Sprintf("dockerfile = %s\n", config.Quote(rel))
	}
	lines += fmt.Sprintf("tags = [%s]\n}\n", config.Quote(imageName(name)))
	t.text = string(hclwrite.Format([]byte(lines)))
	return t
}

// some returns up to three of the texts.
func some(all []string) string {
	shown := make([]string, min(len(all), 3))
	for i := range shown {
		shown[i] = printable(all[i])
	}
	if len(all) > len(shown) {
		return strings.Join(shown, ", ") + fmt.Sprintf(" and %d more", len(all)-len(shown))
	}
	return strings.Join(shown, ", ")
}

// printable returns a text that stays in its line, whatever a file says.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func (w *writer) note(format string, args ...any) {
	w.project.Notes = append(w.project.Notes, printable(fmt.Sprintf(format, args...)))
}

// finish returns the project file.
func (w *writer) finish(ctx context.Context) (Project, error) {
	if err := w.checkPlans(ctx); err != nil {
		return Project{}, err
	}
	for _, t := range w.targets {
		if len(t.reasons) > 0 {
			w.note("target %s is not in the group \"default\": %s", t.name, strings.Join(t.reasons, "; "))
		}
	}
	if reserved := w.builds.Reserved(); len(reserved) > 0 {
		w.note("no variable of a project file can be called %s; the defaults are used", some(reserved))
	}
	if more := len(w.project.Notes) - maxNotes; more > 0 {
		w.project.Notes = w.project.Notes[:maxNotes]
		w.note("and %d more; see the comments in the file", more)
	}
	w.project.Text = w.text()
	w.project.Targets = len(w.targets)
	return w.project, w.checkNames(ctx, w.project.Text)
}

// text returns the file as it is now.
func (w *writer) text() string {
	var names []string
	for _, t := range w.targets {
		if len(t.reasons) == 0 {
			names = append(names, config.Quote(t.name))
		}
	}
	list := "[" + strings.Join(names, ", ") + "]"
	if len(list) > 80 {
		list = "[\n" + strings.Join(names, ",\n") + ",\n]"
	}
	group := string(hclwrite.Format(fmt.Appendf(nil, "group \"default\" {\ntargets = %s\n}\n", list)))
	blocks := append(w.builds.Variables(), group)
	for _, t := range w.targets {
		text := t.text
		if len(t.reasons) > 0 {
			text = "# " + printable("Not in the group \"default\": "+strings.Join(t.reasons, "; ")+".") + "\n" + text
		}
		blocks = append(blocks, text)
	}
	return strings.Join(blocks, "\n")
}
