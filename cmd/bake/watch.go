package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/affected"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/watch"
)

// watchedBuild is a `bake build --watch`. It implements watch.Project.
type watchedBuild struct {
	app *app
	dir string
	o   buildOptions
}

var _ watch.Project = (*watchedBuild)(nil)

// watch builds until ctx ends.
func (a *app) watch(ctx context.Context, o buildOptions) error {
	switch {
	case o.print, o.check, o.call != "build":
		return usagef("--watch cannot be combined with --print, --check or --call")
	case slices.Contains(o.project.files, "-"):
		return usagef("--watch cannot see changes of standard input; name a file with -f")
	case len(o.project.targets) > 0 && config.IsRemote(o.project.targets[0]):
		return usagef("--watch cannot see changes of %s", o.project.targets[0])
	}
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	w := &watchedBuild{app: a, dir: dir, o: o}
	w.o.project.set = slices.Concat(o.project.set, o.run.overrides())
	return watch.Run(ctx, watch.Options{Dir: dir, Files: o.project.files, EnvFiles: o.project.envFiles}, w)
}

// Plan implements watch.Project. It keeps the pins of the plan for Build.
func (w *watchedBuild) Plan(ctx context.Context) (p watch.Plan, err error) {
	if p.Project, err = w.app.loadProject(ctx, w.o.project); err != nil {
		return watch.Plan{}, err
	}
	if err := w.app.checkProject(p.Project, w.o.run); err != nil {
		return p, err
	}
	if w.o.run.pins, err = w.app.usePins(ctx, p.Project.Dir, w.o.project, w.o.lock); err != nil {
		return p, err
	}
	s, err := w.app.open(w.o.run.pull)
	if err != nil {
		return p, err
	}
	defer s.Close()
	if p.Graph, err = s.plan(ctx, p.Project, w.o.run); err != nil {
		return watch.Plan{Project: p.Project}, err
	}
	steps, err := keys.NewFingerprints(s.store.StatIndexDir()).Steps(ctx, p.Graph, nil)
	if err != nil {
		return p, fingerprintError(err)
	}
	p.Targets, err = affected.TargetsOf(p.Graph, steps)
	return p, err
}

// Build implements watch.Project.
func (w *watchedBuild) Build(ctx context.Context, p watch.Plan, targets []string) error {
	part := *p.Project
	part.Requested = targets
	return w.app.buildProject(ctx, &part, w.o.run)
}

// Changed implements watch.Project.
func (w *watchedBuild) Changed(c watch.Change) {
	paths := shownPaths(w.dir, c.Paths)
	switch {
	case !c.Planned:
		w.app.note("changed: %s", paths)
	case len(c.Targets) == 0:
		w.app.note("changed: %s; no target is affected", paths)
	default:
		w.app.note("changed: %s; building %s", paths, strings.Join(c.Targets, ", "))
	}
}

// Failed implements watch.Project.
func (w *watchedBuild) Failed(ctx context.Context, err error) { printError(ctx, w.app.stderr, err) }

// Waiting implements watch.Project.
func (w *watchedBuild) Waiting(folders int) {
	w.app.note("watching %s; press Ctrl-C to stop", plural(folders, "folder"))
}

// shownPaths lists up to three paths, relative to the working directory where they are below it.
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
