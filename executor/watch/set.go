package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"

	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// set is what a build reads: single files, and parts of build contexts. Its paths have no symbolic links in them,
// because an event has the path with which its watch began. The links that lead there are among the files, so that a
// link that changes is noticed too.
type set struct {
	files    map[string]bool // absolute; they need not exist
	contexts []buildContext
}

// buildContext is a build context as one source step reads it.
type buildContext struct {
	dir      string
	excludes []string
	reads    []string // paths in it without wildcards; if empty, all of it is read
	ignore   *patternmatcher.PatternMatcher
}

// newSet returns the files and what a graph reads from this machine. g may be nil.
func newSet(files []string, g *planner.Graph) (set, error) {
	s := set{files: map[string]bool{}}
	s.add(files)
	if g == nil {
		return s, nil
	}
	s.add(g.Files)
	reads := g.Reads()
	for _, step := range g.Steps {
		source := step.Op.GetSource()
		name, ok := strings.CutPrefix(source.GetIdentifier(), "local://")
		if !ok {
			continue
		}
		var excludes []string
		if list := source.Attrs[pb.AttrExcludePatterns]; list != "" {
			if err := json.Unmarshal([]byte(list), &excludes); err != nil {
				return s, fmt.Errorf("ignore patterns of %s: %w", g.Locals[name].Dir, err)
			}
		}
		links, dir := tree.LinksTo("/", g.Locals[name].Dir)
		for _, link := range links {
			s.files[link] = true
		}
		c, err := newContext(dir, excludes, reads[step])
		if err != nil {
			return s, err
		}
		s.contexts = append(s.contexts, c)
	}
	return s, nil
}

// add adds files, the links on the way to them, and the files that these lead to.
func (s set) add(files []string) {
	for _, f := range files {
		links, real := tree.LinksTo("/", f)
		for _, p := range append(links, real) {
			s.files[p] = true
		}
	}
}

func newContext(dir string, excludes, reads []string) (buildContext, error) {
	c := buildContext{dir: dir, excludes: excludes}
	for _, p := range reads {
		links, real := tree.LinksTo(dir, beforeWildcard(p))
		for _, at := range append(links, real) {
			rel, err := filepath.Rel(dir, at)
			if err != nil {
				return c, err
			}
			c.reads = append(c.reads, rel)
		}
	}
	var err error
	if len(excludes) > 0 {
		if c.ignore, err = patternmatcher.New(excludes); err != nil {
			err = fmt.Errorf("ignore patterns of %s: %w", dir, err)
		}
	}
	return c, err
}

// beforeWildcard returns the part of a path before its first component with a wildcard.
func beforeWildcard(p string) string {
	parts := strings.Split(p, "/")
	if i := slices.IndexFunc(parts, func(c string) bool { return strings.ContainsAny(c, `*?[\`) }); i >= 0 {
		parts = parts[:i]
	}
	return strings.Join(parts, "/")
}

// concerns reports whether a change of a path may change what is built.
func (s set) concerns(path string) bool {
	return s.files[path] || slices.ContainsFunc(s.contexts, func(c buildContext) bool { return c.concerns(path) })
}

func (c buildContext) concerns(path string) bool {
	rel, err := filepath.Rel(c.dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return false
	}
	read := len(c.reads) == 0 ||
		slices.ContainsFunc(c.reads, func(p string) bool { return within(rel, p) || within(p, rel) })
	if !read || c.ignore == nil {
		return read
	}
	ignored, err := c.ignore.MatchesOrParentMatches(rel)
	return err != nil || !ignored
}

// changedSince returns the single files that were written after t.
func (s set) changedSince(t time.Time) []string {
	var all []string
	for f := range s.files {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(t) {
			all = append(all, f)
		}
	}
	return all
}

// within reports whether a relative path is dir or lies below it.
func within(path, dir string) bool {
	return dir == "" || dir == "." || path == dir || strings.HasPrefix(path, dir+"/")
}

// folders returns the folders in which a file of the set can change.
func (s set) folders(ctx context.Context) (map[string]bool, error) {
	all := map[string]bool{}
	for f := range s.files {
		all[nearestDir(filepath.Dir(f))] = true
	}
	for _, c := range s.contexts {
		if err := c.folders(ctx, all); err != nil {
			return nil, fmt.Errorf("watch %s: %w", c.dir, err)
		}
	}
	return all, nil
}

// nearestDir returns dir or, if it does not exist, the nearest directory above it.
func nearestDir(dir string) string {
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// folders adds the folders of a context: those below the paths that are read, without ignored ones, and those on the
// way to these paths.
func (c buildContext) folders(ctx context.Context, all map[string]bool) error {
	files, err := tree.OpenLocal(ctx, c.dir, c.excludes, nil)
	if err != nil {
		return err
	}
	defer files.Close()
	reads := c.reads
	if len(reads) == 0 {
		reads = []string{""}
	}
	for _, p := range reads {
		at := c.dir
		all[at] = true
		for part := range strings.SplitSeq(p, "/") {
			at = filepath.Join(at, part)
			if info, err := os.Lstat(at); err != nil || !info.IsDir() {
				break
			}
			all[at] = true
		}
		if err := c.below(ctx, files, "/"+p, all); err != nil {
			return err
		}
	}
	return nil
}

// below adds the folder at path and all below it. A folder that was removed meanwhile is left out.
func (c buildContext) below(ctx context.Context, files *tree.Local, path string, all map[string]bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e, err := files.Lookup(path)
	if err != nil || !e.IsDir() {
		return ignoreMissing(err)
	}
	entries, err := files.ReadDir(path)
	if err != nil {
		return ignoreMissing(err)
	}
	all[filepath.Join(c.dir, path)] = true
	for _, e := range entries {
		if e.IsDir() {
			if err := c.below(ctx, files, e.Path, all); err != nil {
				return err
			}
		}
	}
	return nil
}
