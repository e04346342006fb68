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

// Memo keeps finished plans between runs of one program: what another version of it stored must not be found. Losing
// one costs a plan and nothing else.
type Memo interface {
	// Load gives what was stored under a name, nil when there is nothing whole.
	Load(name digest.Digest) []byte
	Store(name digest.Digest, plan []byte)
}

// memo is a finished plan and all that it was made of, beside what names it: every file that was read or looked for, every
// directory that had to be there, every answer about a base. A plan has no other inputs, so it is used again only if each of them is
// as it was.
type memo struct {
	Project []byte              // digest of the evaluated project and the options
	Files   map[string][]byte   // path to the digest of its content; empty: there is none
	Dirs    map[string]string   // contexts, and as what the view named them: these names are in the graph
	Bases   []memoBase          // what was resolved
	Uses    map[string]*BaseUse // what of it is used, by reference
	Sources []SourceUse
	Graph   savedGraph
}

// memoBase is a question about a base and the digest of its answer.
type memoBase struct {
	Ref      string
	Platform ocispecs.Platform
	Answer   []byte
}

// memoName is where the plan of these targets of this project is kept: the newest replaces the one before.
func (p *plan) memoName() digest.Digest {
	raw, _ := json.Marshal([]any{p.project.Dir, p.project.Requested, p.opts.Platform, p.opts.NoCache}) // plain values always marshal
	return digest.FromBytes(raw)
}

// projectDigest covers all that a plan takes of the project and the options. Of the digests of images in the lock it takes what it
// resolves, and so the answers.
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

// recall is the plan of an earlier run, nil when there is none whose inputs are as they were.
func (p *plan) recall(ctx context.Context) *Graph {
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
	if err != nil || !slices.Equal(project, m.Project) || !p.holds(ctx, m) {
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

// holds says whether every input of a plan is what it was.
func (p *plan) holds(ctx context.Context, m *memo) bool {
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
	raw, _ := json.Marshal(i) // plain values always marshal
	return sum(raw)
}

// remember keeps a finished plan, unless something in it came from a URL.
func (p *plan) remember(g *Graph, targets []*config.Target) {
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
