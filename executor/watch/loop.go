package watch

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/affected"
	"github.com/bakebuild/bake/planner"
)

// Project is what Run builds. Run calls one method at a time.
type Project interface {
	// Plan loads and plans everything requested. On error, it returns the parts of the plan that are complete.
	Plan(ctx context.Context) (Plan, error)
	// Build builds some targets of a plan.
	Build(ctx context.Context, p Plan, targets []string) error
	// Changed reports a change before it is built.
	Changed(c Change)
	// Failed reports an error of Plan or Build. Run waits for the next change.
	Failed(ctx context.Context, err error)
	// Waiting reports the number of watched folders, each time Run begins to wait for a change.
	Waiting(folders int)
}

// Plan is a planned project.
type Plan struct {
	Project *config.Project // nil if it could not be loaded
	Graph   *planner.Graph  // nil if it could not be planned
	Targets affected.Targets
}

// Change is a set of files that changed, and its effect.
type Change struct {
	Paths   []string // absolute and sorted, or one explanatory text if events were dropped; only for display
	Planned bool     // false if the project cannot be planned now
	Targets []string // the targets to build, if planned
}

// Options are what the user named.
type Options struct {
	Dir      string // the absolute working directory
	Files    []string
	EnvFiles []string
}

// loop is the state between two builds.
type loop struct {
	Options
	project Project
	watcher *watcher
	read    map[string]bool // the project files, env files and the lock, as far as is known
	// built maps each target to the fingerprint of its last successful build.
	built map[string]digest.Digest
}

// Run builds everything once, and after each change the targets that it affects, until ctx ends. It returns the cause
// of that, or an *Error if the system cannot watch files. No error of a plan, a build or a build context ends it.
//
// A target is built if its fingerprint differs from that of its last successful build. So a file that is saved without
// a change builds nothing, and a file that is saved during a build leads to one more.
func Run(ctx context.Context, o Options, p Project) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.close()
	l := &loop{Options: o, project: p, watcher: w, read: map[string]bool{}, built: map[string]digest.Digest{}}
	for changed := []string(nil); ; {
		if err := l.round(ctx, changed); err != nil {
			return err
		}
		if changed, err = w.wait(ctx); err != nil {
			return err
		}
	}
}

// round plans, watches what the plan reads, and builds. Its error ends Run.
//
// The order matters. Folders are watched before their files are read by the build, so no change is lost in between.
// Files that planning itself reads may change before they are watched: those are found by comparing what each path was
// before planning with what it is once it is watched.
func (l *loop) round(ctx context.Context, changed []string) error {
	began, before := time.Now(), l.states()
	plan, err := l.project.Plan(ctx)
	if stop := l.follow(ctx, plan); stop != nil {
		return stop
	}
	l.watcher.missed = l.watcher.set.changedSince(before, began)
	if err == nil {
		err = l.build(ctx, plan, changed)
	} else if len(changed) > 0 {
		l.project.Changed(Change{Paths: changed})
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		l.project.Failed(ctx, err)
	}
	l.project.Waiting(l.watcher.folders())
	return nil
}

// states returns the states of the files that the next plan will read, as far as they are known.
func (l *loop) states() map[string]fileState {
	known := newSet(slices.Concat(l.named(), l.usual()), nil)
	known.addAll(l.watcher.set)
	return known.states()
}

// named returns the files that every plan reads if they exist.
func (l *loop) named() []string {
	all := []string{filepath.Join(l.Dir, config.LockName), filepath.Join(l.Dir, ".env")}
	for _, f := range slices.Concat(l.Files, l.EnvFiles) {
		all = append(all, config.Absolute(l.Dir, f))
	}
	return all
}

// usual returns the files that planning looks for if the user named none.
func (l *loop) usual() []string {
	if len(l.Files) > 0 {
		return nil
	}
	var all []string
	for _, f := range config.UsualFiles() {
		all = append(all, filepath.Join(l.Dir, f))
	}
	return all
}

// follow watches what a build of the plan reads. Without a graph, the build contexts of the graph before stay watched.
func (l *loop) follow(ctx context.Context, p Plan) error {
	files := l.named()
	if p.Project != nil {
		clear(l.read)
		files = append(files, projectFiles(l.Dir, p.Project)...)
	} else {
		files = append(files, l.usual()...)
	}
	for _, f := range files {
		l.read[f] = true
	}
	next := newSet(slices.Collect(maps.Keys(l.read)), p.Graph)
	if p.Graph == nil {
		next.addAll(l.watcher.set)
	}
	return l.watcher.follow(ctx, next)
}

// projectFiles returns the files of a project: project files and those that they include, tests, Dockerfiles and
// ignore files.
func projectFiles(dir string, p *config.Project) []string {
	var all []string
	for _, f := range slices.Concat(p.Files, p.Included) {
		all = append(all, config.Absolute(dir, f))
	}
	for _, t := range p.Targets {
		for _, one := range t.Tests {
			all = append(all, config.Absolute(dir, one.At.File))
		}
		if !strings.Contains(t.Context, "://") && t.DockerfileInline == nil {
			folder := config.Absolute(dir, t.Context)
			file := config.Absolute(folder, strings.TrimPrefix(t.Dockerfile, "cwd://"))
			all = append(all, file, file+".dockerignore", filepath.Join(folder, ".dockerignore"))
		}
	}
	return all
}

// build builds the targets whose fingerprints differ from those of their last successful build. Without a change,
// which is the first round, it builds in any case.
func (l *loop) build(ctx context.Context, p Plan, changed []string) error {
	targets := p.Targets.Changed(l.built)
	if len(changed) > 0 {
		l.project.Changed(Change{Paths: changed, Planned: true, Targets: targets})
		if len(targets) == 0 {
			return nil
		}
	}
	if err := l.project.Build(ctx, p, targets); err != nil {
		return err
	}
	for _, name := range targets {
		l.built[name] = p.Targets.Fingerprints[name]
	}
	return nil
}
