package scaffold

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
)

// composeFile holds the services of a compose file, and of one that overrides it.
type composeFile struct {
	name     string
	services []config.ComposeService
	index    map[string]*config.ComposeService // by name
	placed   map[string]*target                // by service, see place
	added    int
}

// readCompose reads a compose file and those that override it. What cannot be read is noted.
func (w *writer) readCompose(ctx context.Context, files []string) error {
	services, notes, err := w.builds.Read(ctx, files...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, n := range notes {
		w.note("%s", n)
	}
	if err != nil {
		w.note("%s was left out: %s", strings.Join(files, " with "), strings.TrimSuffix(err.Error(), "\n"))
		if len(files) > 1 {
			return w.readCompose(ctx, files[:1])
		}
		return nil
	}
	f := &composeFile{name: files[0], services: services, index: map[string]*config.ComposeService{},
		placed: map[string]*target{}}
	for i := range services {
		f.index[services[i].Name] = &services[i]
	}
	w.files = append(w.files, f)
	return nil
}

// placeServices adds the targets of all services. All compose files have been read, so that their variables are known.
func (w *writer) placeServices() {
	for _, f := range w.files {
		for _, s := range f.services {
			w.place(f, f.index[s.Name])
		}
		for _, s := range f.services {
			if t := f.placed[s.Name]; t != nil {
				_, body, _ := strings.Cut(t.text, "\n")
				if w.written[body] == nil {
					w.written[body] = t
				}
			}
		}
		if f.added > 0 {
			w.project.Compose = append(w.project.Compose, f.name)
		}
	}
}

// place returns the target of a service, and adds it after those that are its contexts. A service that is in every
// respect one of an earlier compose file has the target of that one. Services that link to each other in a cycle get
// their own targets; a build reports the cycle.
func (w *writer) place(f *composeFile, s *config.ComposeService) *target {
	if t := f.placed[s.Name]; t != nil {
		return t
	}
	t := &target{}
	f.placed[s.Name] = t
	block := w.builds.Block(*s, "", func(service string) string {
		linked := f.index[service]
		if linked == nil {
			return ""
		}
		to := w.place(f, linked)
		if to.name == "" { // it is being placed: a cycle
			to.name = w.freeName(service, f.name)
		}
		t.links = append(t.links, to.name)
		return to.name
	})
	_, body, _ := strings.Cut(block.Text, "\n")
	if same := w.written[body]; same != nil && t.name == "" {
		f.placed[s.Name] = same
		return same
	}
	if t.name == "" {
		t.name = w.freeName(s.Name, f.name)
	}
	t.text = fmt.Sprintf("target %s {\n%s", config.Quote(t.name), body)
	w.describe(t, s, block)
	w.targets = append(w.targets, t)
	f.added++
	return t
}

// describe finds out why a service cannot be built as it is.
func (w *writer) describe(t *target, s *config.ComposeService, block config.ComposeBlock) {
	if len(block.Requires) > 0 {
		t.reasons = append(t.reasons, "set "+some(block.Requires))
	}
	for _, service := range block.Broken {
		t.reasons = append(t.reasons, "it needs the service "+printable(service)+", which is not a target of this file")
	}
	if s.Home {
		t.reasons = append(t.reasons, "it reads files in the home directory, which needs --allow fs.read=PATH")
	}
	main := config.MainContext(s.Context)
	t.remote = main.Kind == config.ContextURL
	if s.Inline == "" && main.Kind == config.ContextDir && !path.IsAbs(s.Dockerfile) {
		t.file = path.Join(main.Rest, s.Dockerfile)
	}
	for _, value := range s.Contexts {
		t.remote = t.remote || config.NamedContext(value).Kind == config.ContextURL
	}
	if len(t.reasons) > 0 {
		return
	}
	for _, name := range sortedKeys(s.Contexts) {
		c := config.NamedContext(s.Contexts[name])
		if c.Kind != config.ContextDir && c.Kind != config.ContextLayout {
			continue
		}
		if info, err := os.Stat(config.Absolute(w.opts.Dir, c.Rest)); err != nil || !info.IsDir() {
			t.reasons = append(t.reasons, "there is no directory "+printable(c.Rest))
		}
	}
	if main.Kind == config.ContextDir {
		t.reasons = append(t.reasons, w.lacks(s, main.Rest, t.file)...)
	}
}

// lacks says what the Dockerfile of a service needs and its context lacks.
func (w *writer) lacks(s *config.ComposeService, context, file string) []string {
	n := needsOf([]byte(s.Inline), s.Args)
	if s.Inline == "" {
		if file == "" {
			return nil // an absolute path
		}
		var err error
		if n, err = w.needs(file, s.Args); err != nil {
			return []string{err.Error()}
		}
	}
	return n.reasons(w.opts.Dir, filepath.ToSlash(context), file)
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
		if more = sanitized(more); !generic(more) {
			free = name + "-" + more
		}
	}
	for n := 2; w.used[free]; n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	w.used[free] = true
	return free
}

func sortedKeys(m map[string]string) []string {
	var all []string
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}
