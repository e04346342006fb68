package planner

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Memo stores finished plans between runs of one program. Load must not return a plan that another version of the
// program stored, because another version may plan differently. Losing a plan is harmless: it is computed again.
type Memo interface {
	// Load returns what was stored under a name, or nil if nothing complete is stored.
	Load(name digest.Digest) []byte
	Store(name digest.Digest, plan []byte)
}

// memo is a finished plan and every input it was computed from, except those in its name.
//
// Planning runs the frontend for every target, so a finished plan is stored and used again. A plan depends on the
// evaluated project and the options, on the files that were read or found missing, on the context directories, and on
// the resolved bases. Planning reads all of these through files and bases, which record every lookup.
//
// Invariant: a stored plan is used only if every recorded lookup gives the same answer now. Then planning again would
// follow the same path and give the same graph. An input that is read without being recorded would break this: a change
// of it would be ignored until something else changes. New inputs must therefore go through files or bases, or into
// projectDigest. Two kinds of plans are never stored: those with content downloaded from a URL, whose answers are not
// recorded, and those with a password in a URL.
//
// The cost of a stored plan is reading and hashing the recorded files and resolving the bases again. TestMemoChanged
// changes each kind of input, TestMemoGolden compares stored and computed graphs.
type memo struct {
	Project []byte              // digest of the evaluated project and the options
	Files   map[string][]byte   // path to the digest of the content; empty for a missing file
	Dirs    map[string]string   // context directories to their paths in the view, which are in the graph
	Bases   []memoBase          // the resolved bases
	Uses    map[string]*BaseUse // how they are used, by reference
	Sources []SourceUse
	Graph   savedGraph
}

// memoBase is the request to resolve a base and the digest of the answer.
type memoBase struct {
	Ref      string
	Platform ocispecs.Platform
	Answer   []byte
}

// memoName returns the name of the plan of these targets of this project. Each new plan replaces the previous one.
func (p *plan) memoName() digest.Digest {
	name := []any{p.project.Dir, p.project.Requested, p.opts.Platform, p.opts.NoCache}
	raw, _ := json.Marshal(name) // cannot fail: plain values
	return digest.FromBytes(raw)
}

// projectDigest covers everything that a plan uses of the project and the options. The image digests of the lock are
// left out: they are covered by the answers about bases.
func (p *plan) projectDigest() ([]byte, error) {
	all := []any{p.project, p.opts.Platform, p.opts.NoCache}
	if l := p.opts.Lock; l != nil {
		from := map[string]string{}
		for ref, pin := range l.Images {
			if pin.From != "" {
				from[ref] = pin.From
			}
		}
		all = append(all, from, l.Git, l.HTTP, p.opts.Frozen)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return sum(raw), nil
}

func sum(raw []byte) []byte {
	s := sha256.Sum256(raw)
	return s[:]
}

// loadMemo returns the stored plan of an earlier run, or nil if there is none or one of its inputs changed.
func (p *plan) loadMemo(ctx context.Context) *Graph {
	if p.opts.Memo == nil {
		return nil
	}
	raw := p.opts.Memo.Load(p.memoName())
	if raw == nil {
		return nil
	}
	m, err := decodeMemo(raw)
	if err != nil {
		return nil
	}
	project, err := p.projectDigest()
	if err != nil || !slices.Equal(project, m.Project) || !p.unchanged(ctx, m) {
		return nil
	}
	if p.opts.RefuseRego && m.namesRego() {
		return nil
	}
	for ref, use := range m.Uses {
		p.bases.restore(ref, *use)
	}
	g, err := m.Graph.graph(p.project, p.bases.list())
	if err != nil {
		return nil
	}
	g.Sources = m.Sources
	return g
}

// unchanged reports whether every recorded input of a plan gives the same answer now.
func (p *plan) unchanged(ctx context.Context, m *memo) bool {
	for dir, want := range m.Dirs {
		if folder, err := p.opts.View.Folder(dir); err != nil || folder != want {
			return false
		}
	}
	for path, want := range m.Files {
		data, err := p.files.get(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if len(want) > 0 {
				return false
			}
		case err != nil || !slices.Equal(sum(data), want):
			return false
		}
	}
	for _, b := range m.Bases {
		image, err := p.bases.resolve(ctx, b.Ref, b.Platform)
		if err != nil || !slices.Equal(image.sum(), b.Answer) {
			return false
		}
	}
	return true
}

func (i ResolvedImage) sum() []byte {
	raw, _ := json.Marshal(i) // cannot fail: plain values
	return sum(raw)
}

// storeMemo stores a finished plan, unless part of it was downloaded from a URL or cannot be stored (see saveGraph).
func (p *plan) storeMemo(g *Graph, targets []*config.Target) {
	if p.opts.Memo == nil || p.files.fetched {
		return
	}
	m := &memo{Files: map[string][]byte{}, Dirs: p.files.dirs, Uses: p.bases.used, Sources: g.Sources}
	for path, r := range p.files.read {
		switch {
		case r.err == nil:
			m.Files[path] = sum(r.data)
		case errors.Is(r.err, fs.ErrNotExist):
			m.Files[path] = nil
		default:
			return
		}
	}
	for _, call := range p.bases.calls {
		m.Bases = append(m.Bases, memoBase{call.ref, call.platform, call.image.sum()})
	}
	var err error
	if m.Project, err = p.projectDigest(); err != nil {
		return
	}
	if m.Graph, err = saveGraph(g, targets); err != nil {
		return
	}
	if raw, err := m.encode(); err == nil {
		p.opts.Memo.Store(p.memoName(), raw)
	}
}
