package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/planner"
)

// lockPlan is a project planned with its lock file, or a part of it, for the commands that look after the lock.
type lockPlan struct {
	*session
	project *config.Project
	lock    *config.Lock // as it is; empty where there is none
	used    *config.Lock // what the plan was made with
	graph   *planner.Graph
}

// lockChange says what a plan takes in the place of the lock as it is. The fields may be nil.
type lockChange struct {
	read   func(dir string) (*config.Lock, error)            // instead of config.ReadLock
	change func(ctx context.Context, before *lockPlan) error // of used; there is no graph yet
}

// planLock plans the targets, or all. What the lock has is taken from it; all else is asked of the registries now. Close it.
func (a *app) planLock(ctx context.Context, o projectOptions, c lockChange) (_ *lockPlan, err error) {
	load := a.loadProject
	if len(o.targets) == 0 {
		load = a.wholeProject
	}
	p := &lockPlan{}
	if p.project, err = load(ctx, o); err != nil {
		return nil, err
	}
	if a.fetcher != nil {
		return nil, usagef("a project that comes from elsewhere has no lock here: run this where its files are")
	}
	if c.read == nil {
		c.read = config.ReadLock
	}
	if p.lock, err = c.read(p.project.Dir); err != nil {
		return nil, err
	}
	if p.lock == nil {
		p.lock = config.NewLock()
	}
	if p.session, err = a.open(true); err != nil {
		return nil, err
	}
	p.used = p.lock.Clone()
	if c.change != nil {
		err = c.change(ctx, p)
	}
	if err == nil {
		p.graph, err = p.plan(ctx, p.project, runOptions{pins: pins{lock: p.used}})
	}
	if err != nil {
		_ = p.Close() // the first error says why
		return nil, err
	}
	return p, nil
}

// image is how a base is used; nil when it is not.
func (p *lockPlan) image(ref string) *planner.BaseUse {
	if i := slices.IndexFunc(p.graph.Bases, func(b planner.BaseUse) bool { return b.Ref == ref }); i >= 0 {
		return &p.graph.Bases[i]
	}
	return nil
}

// source is how a git repository or a file over HTTP is used; nil when it is not.
func (p *lockPlan) source(key string) *planner.SourceUse {
	if i := slices.IndexFunc(p.graph.Sources, func(s planner.SourceUse) bool { return s.Key == key }); i >= 0 {
		return &p.graph.Sources[i]
	}
	return nil
}

// usedBy names the targets that use what a key stands for.
func (p *lockPlan) usedBy(key string) []string {
	if b := p.image(key); b != nil {
		return b.Targets
	}
	if s := p.source(key); s != nil {
		return s.Targets
	}
	return nil
}

// pin puts what a key stands for in the plan into the lock. An image keeps the repository that its bytes are taken from.
func (p *lockPlan) pin(ctx context.Context, key string) error {
	if b := p.image(key); b != nil {
		p.lock.Images[key] = config.ImagePin{Digest: b.Digest, From: p.lock.Images[key].From}
		return nil
	}
	s := p.source(key)
	if s == nil {
		return fmt.Errorf("nothing uses %s", key)
	}
	now, err := s.Pin, error(nil)
	if now == "" {
		now, err = p.current(ctx, *s)
	}
	switch {
	case err != nil:
		return err
	case s.Git:
		p.lock.Git[key] = now
	default:
		p.lock.HTTP[key] = digest.Digest(now)
	}
	return nil
}

// current is what a git reference or a URL stands for, as its server says now.
func (s *session) current(ctx context.Context, u planner.SourceUse) (string, error) {
	if u.Git {
		return s.fetcher.Commit(ctx, fetch.Repository{Remote: u.Remote, Ref: u.Ref})
	}
	d, err := s.fetcher.Content(ctx, u.Remote)
	return d.String(), err
}

// selectKeys says which keys some names mean: references as they are matched by matchesRef, URLs, and the names of base blocks.
func selectKeys(p *config.Project, keys, names []string) (func(key string) bool, error) {
	chosen := map[string]bool{}
	for _, name := range names {
		pattern := name
		if b, ok := p.Bases[name]; ok {
			pattern = b.Image
		}
		found := false
		for _, key := range keys {
			if matchesRef(pattern, key) {
				chosen[key], found = true, true
			}
		}
		if !found {
			return nil, usagef("nothing here is called %s; there is %s", name, strings.Join(keys, ", "))
		}
	}
	return func(key string) bool { return chosen[key] || len(names) == 0 }, nil
}

// matchesRef says whether a pattern means a reference: the whole of it, or its end after a slash; without a tag, or a # of git, any.
func matchesRef(pattern, key string) bool {
	short := key
	if i := strings.LastIndexAny(key, ":#"); i > strings.LastIndex(key, "/") {
		short = key[:i]
	}
	for _, whole := range []string{key, short} {
		for rest := whole; ; {
			if glob(pattern, rest) {
				return true
			}
			_, after, ok := strings.Cut(rest, "/")
			if !ok {
				break
			}
			rest = after
		}
	}
	return false
}

// glob matches a pattern in which * is any text.
func glob(pattern, text string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == text
	}
	if !strings.HasPrefix(text, first) {
		return false
	}
	for text = text[len(first):]; ; text = text[1:] {
		if glob(rest, text) {
			return true
		}
		if text == "" {
			return false
		}
	}
}
