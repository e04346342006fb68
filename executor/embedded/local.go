package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// localPrefix starts the identifier of a build context's source op.
const localPrefix = "local://"

// localSource is a build context, read in place. It has no entry of its own: the keys of its readers contain the
// content digest of what they select.
//
// Stale contexts. Files may change while a build reads them. A file that changes after it was digested is noticed,
// because copied bytes are digested again and file attributes compared; tree.ErrChanged then ends the read. The
// context is dropped, its age grows, and the next reader scans it again. Steps that were keyed at the old age must
// not run: their keys describe files that no longer exist. So every step records the ages of its contexts when it is
// keyed and compares them before it uses or stores anything (keyed.overtaken). The scheduler then looks it up again,
// four times at most. Without the age two steps could be keyed on two states of one context, and an entry could hold
// other files than its key. stale_test.go shows each case.
type localSource struct {
	n        *node
	dir      string
	excludes []string

	mu sync.Mutex
	// files is nil until something is read, and again after refresh.
	files   *tree.Local
	digests map[string]digest.Digest
	age     int // how often it was read again
}

// newLocal finds the directory of a local source.
func newLocal(n *node, source *pb.SourceOp) (operation, error) {
	name := strings.TrimPrefix(source.GetIdentifier(), localPrefix)
	local, ok := n.b.graph.Locals[name]
	if !ok {
		return nil, fmt.Errorf("the graph does not define the build context %q", name)
	}
	l := &localSource{n: n, dir: local.Dir, digests: map[string]digest.Digest{}}
	if list := source.GetAttrs()[pb.AttrExcludePatterns]; list != "" {
		if err := json.Unmarshal([]byte(list), &l.excludes); err != nil {
			return nil, fmt.Errorf("excluded patterns of build context %q: %w", name, err)
		}
	}
	n.local = l
	return l, nil
}

// lookup, prepare and run read nothing: a context is read when a step needs its files.
func (l *localSource) lookup(context.Context) (bool, error) {
	l.n.result.Status = executor.StatusNotNeeded
	return true, nil
}
func (l *localSource) prepare(context.Context) (bool, func(), error) { return true, nil, nil }
func (l *localSource) run(context.Context) error                     { return nil }

// open scans the context's directory, once until refresh.
func (l *localSource) open(ctx context.Context) (*tree.Local, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files != nil {
		return l.files, nil
	}
	stat, err := l.n.b.stats.of(l.dir)
	if err != nil {
		return nil, err
	}
	var patch tree.Patch
	if p := l.n.b.patched; p != nil {
		patch = p.Patch
	}
	files, err := tree.OpenPatched(ctx, l.dir, l.excludes, stat, patch)
	if err != nil {
		return nil, fmt.Errorf("build context: %w", err)
	}
	l.files = files
	return files, nil
}

// refresh drops was, so that changed files are read again, unless another step has refreshed since.
func (l *localSource) refresh(was *tree.Local) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == was {
		l.files = nil
		l.age++
		clear(l.digests)
	}
}

// ageNow returns how often the context was read again so far.
func (l *localSource) ageNow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.age
}

// close closes the context's directory. The context must not be read afterwards.
func (l *localSource) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files != nil {
		_ = l.files.Close() // it was only read
		l.files = nil
	}
}

// read calls f with the context's files. If f fails because a file changed, the error wraps schedule.ErrStale and the
// context is read again.
func (l *localSource) read(ctx context.Context, f func(tree.FS) error) error {
	files, err := l.open(ctx)
	if err != nil {
		return err
	}
	return l.fresh(files, f(files))
}

func (l *localSource) fresh(files *tree.Local, err error) error {
	if !errors.Is(err, tree.ErrChanged) {
		return err
	}
	l.refresh(files)
	if errors.Is(err, schedule.ErrStale) {
		return err
	}
	return fmt.Errorf("%w: %w", schedule.ErrStale, err)
}

// digest returns the content digest of a selection. Each is computed once.
func (l *localSource) digest(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	if p := l.n.b.patched; p != nil {
		return p.digest(l, sel, func() (digest.Digest, error) { return l.digestOnce(ctx, sel) })
	}
	return l.digestOnce(ctx, sel)
}

func (l *localSource) digestOnce(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	files, err := l.open(ctx)
	if err != nil {
		return "", err
	}
	name := selectionName(0, sel)
	l.mu.Lock()
	d, ok := l.digests[name]
	l.mu.Unlock()
	if ok {
		return d, nil
	}
	if d, err = tree.SelectionDigest(ctx, files, sel); err != nil {
		return "", l.fresh(files, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == files {
		l.digests[name] = d
	}
	return d, nil
}

// snapshot returns a layer with the selected files of the context at its root.
func (l *localSource) snapshot(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	return l.copyOut(ctx, sel, "/")
}

// copyOut returns the layer with the selected files under dest. The layer is named by its content and reused.
func (l *localSource) copyOut(ctx context.Context, sel tree.Selection, dest string) (digest.Digest, error) {
	age := l.ageNow()
	content, err := l.digest(ctx, sel)
	if err != nil {
		return "", err
	}
	id := cache.KeyOf([]cache.Input{{Name: "context", Digest: content.String()}, {Name: "at", Digest: dest}})
	if _, ok := l.n.b.store.LayerDir(id); ok {
		return id, nil
	}
	unlock, err := l.n.b.store.Lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, ok := l.n.b.store.LayerDir(id); ok {
		return id, nil
	}
	res, err := l.n.b.makeLayer(ctx, id, copyOp(sel, dest), input{}, []input{{node: l.n}}, func() error {
		if l.ageNow() != age {
			return schedule.ErrOvertaken
		}
		return nil
	})
	if err == nil && !res.Changed {
		id = emptyLayer
	}
	return id, err
}

// statIndexes are the stat indexes of the run, one for each context directory.
type statIndexes struct {
	dir  string // where they are stored
	mu   sync.Mutex
	open map[string]*tree.StatIndex
}

// of opens the index of a context's directory.
func (s *statIndexes) of(dir string) (*tree.StatIndex, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.open[dir]; ok {
		return x, nil
	}
	x, err := tree.OpenStatIndex(filepath.Join(s.dir, digest.FromString(dir).Encoded()))
	if err != nil {
		return nil, err
	}
	if s.open == nil {
		s.open = map[string]*tree.StatIndex{}
	}
	s.open[dir] = x
	return x, nil
}

// save writes the indexes back. They only save time, so errors are ignored.
func (s *statIndexes) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.open {
		_ = x.Save()
	}
}
