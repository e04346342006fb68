package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// IsLocal reports whether a step is the source op of a build context.
func IsLocal(s *planner.Step) bool {
	return s != nil && strings.HasPrefix(s.Op.GetSource().GetIdentifier(), planner.LocalPrefix)
}

// Contexts opens the build contexts of a run. It keeps one stat index for each directory. It may be used by several
// goroutines.
type Contexts struct {
	statDir string // where the indexes are stored
	mu      sync.Mutex
	stats   map[string]*tree.StatIndex
	roots   tree.RootPool // bounds the directories that are open
}

// NewContexts returns contexts whose stat indexes are stored in statDir.
func NewContexts(statDir string) *Contexts {
	return &Contexts{statDir: statDir, stats: map[string]*tree.StatIndex{}}
}

// stat opens the index of a context's directory.
func (c *Contexts) stat(dir string) (*tree.StatIndex, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x, ok := c.stats[dir]; ok {
		return x, nil
	}
	x, err := tree.OpenStatIndex(filepath.Join(c.statDir, digest.FromString(dir).Encoded()))
	if err != nil {
		return nil, err
	}
	c.stats[dir] = x
	return x, nil
}

// Save stores the indexes. They only save time, so an error is ignored.
func (c *Contexts) Save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.stats {
		_ = x.Save()
	}
}

// Context is one build context: a directory without what its ignore patterns exclude. It is read when it is first
// needed, and each selection is hashed once. It may be used by several goroutines.
type Context struct {
	Dir      string
	Name     string // for messages: the directory, or the URL that it was downloaded from
	excludes []string
	patch    tree.Patch
	contexts *Contexts

	mu sync.Mutex
	// files is nil until something is read, and again after a file has changed.
	files   *tree.Local
	digests map[string]digest.Digest
	age     int // how often files were dropped because one had changed
}

// Open returns the build context of a source op of a graph. patch overrides files of the directory; it may be nil.
// Nothing is read yet. The caller closes it.
func (c *Contexts) Open(g *planner.Graph, source *pb.SourceOp, patch tree.Patch) (*Context, error) {
	name := strings.TrimPrefix(source.GetIdentifier(), planner.LocalPrefix)
	local, ok := g.Locals[name]
	if !ok {
		return nil, fmt.Errorf("build context %q: not in the graph", name)
	}
	l := &Context{
		Dir: local.Dir, Name: cmp.Or(local.URL, local.Dir), patch: patch, contexts: c,
		digests: map[string]digest.Digest{},
	}
	if list := source.GetAttrs()[pb.AttrExcludePatterns]; list != "" {
		if err := json.Unmarshal([]byte(list), &l.excludes); err != nil {
			return nil, fmt.Errorf("excluded patterns of build context %q: %w", name, err)
		}
	}
	return l, nil
}

// open opens the directory, once until a file changes.
func (l *Context) open(ctx context.Context) (*tree.Local, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files != nil {
		return l.files, nil
	}
	stat, err := l.contexts.stat(l.Dir)
	if err != nil {
		return nil, err
	}
	files, err := tree.OpenPatched(ctx, l.Dir, l.excludes, stat, l.patch)
	if err != nil {
		return nil, fmt.Errorf("build context: %w", l.named(err))
	}
	files.Share(&l.contexts.roots)
	l.files = files
	return files, nil
}

// named makes an error about a downloaded context name its URL and not a directory of the cache.
func (l *Context) named(err error) error {
	if err == nil || l.Name == l.Dir || !strings.Contains(err.Error(), l.Dir) {
		return err
	}
	return &namedError{strings.ReplaceAll(err.Error(), l.Dir, l.Name), err}
}

// namedError is an error with another text.
type namedError struct {
	text string
	err  error
}

func (e *namedError) Error() string { return e.text }

// Unwrap returns the error.
func (e *namedError) Unwrap() error { return e.err }

// refresh drops what was read when err says that a file has changed, unless another caller has done so. It returns
// err.
func (l *Context) refresh(was *tree.Local, err error) error {
	if !errors.Is(err, tree.ErrChanged) {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == was {
		l.files = nil
		l.age++
		clear(l.digests)
	}
	return err
}

// Age returns how often the context was read again because a file had changed. What was computed at another age may
// be of other files.
func (l *Context) Age() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.age
}

// Close closes the directory. No file of it may be read afterwards.
func (l *Context) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files != nil {
		_ = l.files.Close() // it was only read
		l.files = nil
	}
}

// Read calls f with the context's files. If its error wraps tree.ErrChanged, the next call reads the directory again.
func (l *Context) Read(ctx context.Context, f func(tree.FS) error) error {
	files, err := l.open(ctx)
	if err != nil {
		return err
	}
	return l.refresh(files, l.named(f(files)))
}

// Digest returns the content digest of a selection; each is computed once.
func (l *Context) Digest(ctx context.Context, sel tree.Selection) (digest.Digest, error) {
	files, err := l.open(ctx)
	if err != nil {
		return "", err
	}
	name := SelectionName(0, sel)
	l.mu.Lock()
	d, ok := l.digests[name]
	l.mu.Unlock()
	if ok {
		return d, nil
	}
	if d, err = tree.SelectionDigest(ctx, files, sel); err != nil {
		return "", l.refresh(files, l.named(err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == files {
		l.digests[name] = d
	}
	return d, nil
}
