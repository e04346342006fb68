package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/bakebuild/bake/config"
)

// comparison is two revisions of a project in git. The checkout and git's index stay as they are.
type comparison struct {
	dir           string // of the project, without links
	before, after *revision
	objects       *objects
	temp          string

	mu      sync.Mutex
	unknown map[string]bool // references of bases that nothing here knows
}

// Close removes what was written.
func (c *comparison) Close() error { return errors.Join(c.objects.Close(), os.RemoveAll(c.temp)) }

func (c *comparison) unknownRefs() []string {
	return append([]string{}, slices.Sorted(maps.Keys(c.unknown))...)
}

func (a *app) newComparison(ctx context.Context, o affectedOptions) (_ *comparison, err error) {
	dir, err := a.workDir()
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	repo, err := openRepository(ctx, dir)
	if err != nil {
		return nil, usagef("affected compares revisions in git: %w", err)
	}
	c := &comparison{dir: dir, unknown: map[string]bool{}, objects: &objects{repository: repo, ctx: ctx}}
	if c.temp, err = os.MkdirTemp("", "bake-affected-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.before, err = c.revision(ctx, repo, o.since); err != nil {
		return nil, err
	}
	c.after = &revision{objects: c.objects, temp: c.temp}
	if o.until != "" {
		c.after, err = c.revision(ctx, repo, o.until)
	}
	return c, err
}

func (c *comparison) revision(ctx context.Context, repo repository, name string) (*revision, error) {
	commit, err := repo.commit(ctx, name)
	if err != nil {
		return nil, usagef("%s is no revision here: %w", name, err)
	}
	v, err := repo.revision(ctx, commit, c.objects, c.temp)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return v, nil
}

// asked is a view that notes what it was asked for.
type asked struct {
	view *revision

	mu      sync.Mutex
	answers map[question]string
}

type question struct {
	kind byte // f, d or g, as the methods of config.View
	path string
}

func newAsked(v *revision) *asked { return &asked{view: v, answers: map[question]string{}} }

func (a *asked) note(q question) {
	answer := a.view.answer(q)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[q] = answer
}

// File implements config.View.
func (a *asked) File(path string) (string, error) {
	a.note(question{'f', path})
	return a.view.File(path)
}

// Folder implements config.View.
func (a *asked) Folder(path string) (string, error) {
	a.note(question{'d', path})
	return a.view.Folder(path)
}

// Glob implements config.View.
func (a *asked) Glob(pattern string) ([]string, error) {
	a.note(question{'g', pattern})
	return a.view.Glob(pattern)
}

// sameIn says whether another revision answers all that was asked in the same way: whoever asked would do there what it did here.
func (a *asked) sameIn(other *revision) bool {
	for q, answer := range a.answers {
		if other.answer(q) != answer {
			return false
		}
	}
	return true
}

// answer identifies what a view says. A file of the disk is itself, whatever it holds.
func (r *revision) answer(q question) string {
	if q.kind == 'g' {
		all, err := r.Glob(q.path)
		return fmt.Sprint(all, err)
	}
	real, o, err := r.resolve(q.path)
	if o != nil {
		return fmt.Sprint(o.id, o.IsDir(), real, err)
	}
	return fmt.Sprint(real, err)
}

// readBeside is a file that is otherwise in a revision than on the disk and may be read without asking a view, "" for none: what compose
// files include or extend is read by the library for them.
func readBeside(p *config.Project, v *revision) string {
	for _, f := range p.Included {
		if slices.ContainsFunc(throughLinks("/", f), v.Touches) {
			return f
		}
	}
	if !composes(p, v) {
		return ""
	}
	// What they name and the disk does not have, and env files of includes, nobody is told of: such names tell.
	for dir, names := range v.changes {
		for name := range names {
			path := filepath.Join(dir, name)
			if more := strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml") || strings.Contains(name, "env"); more &&
				!slices.ContainsFunc(p.Files, func(f string) bool { return absolute(p.Dir, f) == path }) {
				return path
			}
		}
	}
	return ""
}

// composes says whether a file of the project mentions what makes compose read others.
func composes(p *config.Project, v *revision) bool {
	return slices.ContainsFunc(p.Files, func(name string) bool {
		if ext := filepath.Ext(name); ext != ".yml" && ext != ".yaml" {
			return false
		}
		at, err := v.File(absolute(p.Dir, name))
		if err != nil {
			return false // it is not there
		}
		raw, err := os.ReadFile(at)
		return err != nil || bytes.Contains(raw, []byte("include")) || bytes.Contains(raw, []byte("extends"))
	})
}
