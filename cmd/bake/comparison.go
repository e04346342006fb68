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
	"github.com/bakebuild/bake/executor/revision"
)

// comparison is two revisions of a project in git. The checkout and git's index stay as they are.
type comparison struct {
	dir           string // of the project, without links
	before, after *revision.View
	checkout      *revision.Checkout

	mu      sync.Mutex
	unknown map[string]bool // references of bases that nothing here knows
}

// Close removes what was written.
func (c *comparison) Close() error { return c.checkout.Close() }

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
	checkout, err := revision.Open(ctx, dir)
	if err != nil {
		return nil, usagef("affected compares revisions in git: %w", err)
	}
	c := &comparison{dir: dir, unknown: map[string]bool{}, checkout: checkout}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.before, err = c.revision(ctx, o.since); err != nil {
		return nil, err
	}
	c.after = checkout.WorkingTree()
	if o.until != "" {
		c.after, err = c.revision(ctx, o.until)
	}
	return c, err
}

func (c *comparison) revision(ctx context.Context, name string) (*revision.View, error) {
	commit, err := c.checkout.Commit(ctx, name)
	if err != nil {
		return nil, usagef("%s is no revision here: %w", name, err)
	}
	v, err := c.checkout.View(ctx, commit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return v, nil
}

// readBeside is a file that is otherwise in a revision than on the disk and may be read without asking a view, "" for none: what compose
// files include or extend is read by the library for them.
func readBeside(p *config.Project, v *revision.View) string {
	for _, f := range p.Included {
		if slices.ContainsFunc(throughLinks("/", f), v.Touches) {
			return f
		}
	}
	if !composes(p, v) {
		return ""
	}
	// What they name and the disk does not have, and env files of includes, nobody is told of: such names tell.
	for path := range v.Differences() {
		name := filepath.Base(path)
		if more := strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml") || strings.Contains(name, "env"); more &&
			!slices.ContainsFunc(p.Files, func(f string) bool { return absolute(p.Dir, f) == path }) {
			return path
		}
	}
	return ""
}

// composes says whether a file of the project mentions what makes compose read others.
func composes(p *config.Project, v *revision.View) bool {
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
