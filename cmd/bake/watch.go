package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// How long files must be quiet before a build starts, and how long it waits for that at most.
const (
	watchQuiet = 100 * time.Millisecond
	watchMost  = 2 * time.Second
)

// watch is `bake build --watch`: one build after the other, each of the targets that what was saved affects.
type watch struct {
	app  *app
	o    buildOptions
	fs   *fsnotify.Watcher
	at   map[string]inode // what is watched, by path
	set  watchSet
	read map[string]bool // the project files and the lock, as far as is known
	// missed are files that changed while they were read, before they were watched.
	missed []string
	// built are the fingerprints of the targets whose last build succeeded.
	built map[string]digest.Digest
}

// watch builds until ctx ends. A build that fails waits for the next change.
func (a *app) watch(ctx context.Context, o buildOptions) error {
	switch {
	case o.print, o.check, o.call != "build":
		return usagef("--watch builds: it has no meaning beside --print, --check and --call")
	case slices.Contains(o.project.files, "-"):
		return usagef("--watch cannot see changes of standard input: name a file with -f")
	case len(o.project.targets) > 0 && config.IsRemote(o.project.targets[0]):
		return usagef("--watch cannot see changes of %s", o.project.targets[0])
	}
	events, err := fsnotify.NewWatcher()
	if errors.Is(err, unix.EMFILE) {
		return &watchError{"the system allows a user no more watchers: raise fs.inotify.max_user_instances, or end other programs that watch files"}
	}
	if err != nil {
		return &watchError{"watch files: " + err.Error()}
	}
	defer events.Close()
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	w := &watch{app: a, o: o, fs: events, at: map[string]inode{}, read: map[string]bool{}, built: map[string]digest.Digest{}}
	w.o.project.set = slices.Concat(o.project.set, o.run.overrides())
	for _, f := range slices.Concat(o.project.files, o.project.envFiles) {
		w.read[absolute(dir, f)] = true
	}
	for changed := []string(nil); ; {
		if err := w.round(ctx, dir, changed); err != nil {
			return err
		}
		if changed, err = w.wait(ctx); err != nil {
			return err
		}
	}
}

// round builds what changed since it was last built. Its error ends the watch; one of the build is shown.
func (w *watch) round(ctx context.Context, dir string, changed []string) error {
	began := time.Now()
	project, graph, prints, err := w.look(ctx, dir)
	if stop := w.follow(ctx, dir, graph, project); stop != nil {
		return stop
	}
	// Contexts are read by the build, which comes now; files have been.
	w.missed = w.set.changedSince(began)
	if err == nil {
		err = w.build(ctx, project, prints, shownPaths(dir, changed))
	} else if len(changed) > 0 {
		w.app.note("changed: %s", shownPaths(dir, changed))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		printError(ctx, w.app.stderr, err)
	}
	w.app.note("watching %s; Ctrl-C ends", plural(len(w.fs.WatchList()), "folder"))
	return nil
}

// look plans everything that was asked for, and takes the fingerprint of each target.
func (w *watch) look(ctx context.Context, dir string) (*config.Project, *planner.Graph, prints, error) {
	project, err := w.app.loadProject(ctx, w.o.project)
	if err != nil {
		return nil, nil, prints{}, err
	}
	if err := w.app.checkProject(project, w.o.run); err != nil {
		return project, nil, prints{}, err
	}
	if w.o.run.pins, err = w.app.usePins(ctx, project.Dir, w.o.project, w.o.lock); err != nil {
		return project, nil, prints{}, err
	}
	s, err := w.app.open(w.o.run.pull)
	if err != nil {
		return project, nil, prints{}, err
	}
	defer s.Close()
	graph, err := s.plan(ctx, project, w.o.run)
	if err != nil {
		return project, nil, prints{}, err
	}
	all, err := printsOf(ctx, s.engine.Fingerprints(), graph, dir, nil)
	return project, graph, all, err
}

// follow watches what the build reads. Without a graph what was watched before stays, and what the project names comes to it.
func (w *watch) follow(ctx context.Context, dir string, graph *planner.Graph, project *config.Project) error {
	if project != nil {
		clear(w.read)
		for _, f := range projectFiles(dir, project) {
			w.read[f] = true
		}
	}
	w.read[filepath.Join(dir, config.LockName)] = true
	w.read[filepath.Join(dir, ".env")] = true
	for _, f := range slices.Concat(w.o.project.files, w.o.project.envFiles) {
		w.read[absolute(dir, f)] = true
	}
	if project == nil && len(w.o.project.files) == 0 {
		for _, f := range config.UsualFiles() {
			w.read[filepath.Join(dir, f)] = true
		}
	}
	set, err := newWatchSet(slices.Collect(maps.Keys(w.read)), graph)
	if err != nil {
		return err
	}
	if graph == nil {
		maps.Copy(set.files, w.set.files)
		set.contexts = w.set.contexts
	}
	w.set = set
	folders, err := set.folders(ctx)
	if err != nil {
		return err
	}
	return follow(w.fs, w.at, folders)
}

// projectFiles are the files that a project was read from, those of its tests, and its Dockerfiles.
func projectFiles(dir string, p *config.Project) []string {
	var all []string
	for _, f := range slices.Concat(p.Files, p.Included) {
		all = append(all, absolute(dir, f))
	}
	for _, t := range p.Targets {
		for _, one := range t.Tests {
			all = append(all, absolute(dir, one.At.File))
		}
		if !strings.Contains(t.Context, "://") && t.DockerfileInline == nil {
			file := absolute(absolute(dir, t.Context), strings.TrimPrefix(t.Dockerfile, "cwd://"))
			all = append(all, file, file+".dockerignore", absolute(absolute(dir, t.Context), ".dockerignore"))
		}
	}
	return all
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// build builds the targets whose fingerprints are not those that were built last.
func (w *watch) build(ctx context.Context, project *config.Project, now prints, changed string) error {
	var todo []string
	for _, name := range now.order {
		if w.built[name] != now.of[name] {
			todo = append(todo, name)
		}
	}
	if changed != "" {
		if len(todo) == 0 {
			w.app.note("changed: %s; no image changes by it", changed)
			return nil
		}
		w.app.note("changed: %s; building %s", changed, strings.Join(todo, ", "))
	}
	part := *project
	part.Requested = todo
	if err := w.app.buildProject(ctx, &part, w.o.run); err != nil {
		return err
	}
	for _, name := range todo {
		w.built[name] = now.of[name]
	}
	return nil
}

// wait returns what has changed once files are quiet. What happened during a build has been waiting.
func (w *watch) wait(ctx context.Context) ([]string, error) {
	changed := map[string]bool{}
	var quiet, most <-chan time.Time
	for _, f := range w.missed {
		changed[f] = true
		quiet = time.After(watchQuiet)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case e := <-w.fs.Events:
			if !w.set.concerns(e.Name) {
				continue
			}
			changed[e.Name] = true
			if quiet = time.After(watchQuiet); most == nil {
				most = time.After(watchMost)
			}
		case err := <-w.fs.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return nil, &watchError{"watch files: " + err.Error()}
			}
			changed["more files than could be counted"] = true
			quiet = time.After(watchQuiet)
		case <-quiet:
			return slices.Sorted(maps.Keys(changed)), nil
		case <-most:
			return slices.Sorted(maps.Keys(changed)), nil
		}
	}
}

// shownPaths names up to three paths, from the working directory.
func shownPaths(dir string, paths []string) string {
	var shown []string
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for i, p := range paths {
		if i == 3 {
			shown = append(shown, fmt.Sprintf("%d more", len(paths)-3))
			break
		}
		if rel, err := filepath.Rel(dir, p); err == nil && filepath.IsLocal(rel) {
			p = rel
		}
		shown = append(shown, p)
	}
	return strings.Join(shown, ", ")
}
