package watch

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"

	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// set holds what a build reads: single files, and parts of build contexts. Its paths have no symbolic links in them,
// because an event has the path with which its watch began. The links that lead there are among the files, so that a
// link that changes is noticed too.
type set struct {
	files map[string]bool // absolute; they need not exist
	// above holds the folders above the files and contexts. When a missing one is created, only the folder above it is
	// watched, so its creation must start a round. That round watches it.
	above    map[string]bool
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
func newSet(files []string, g *planner.Graph) set {
	s := set{files: map[string]bool{}, above: map[string]bool{}}
	s.add(files)
	if g == nil {
		return s
	}
	s.add(g.Files)
	reads := g.Reads()
	for _, step := range g.Steps {
		source := step.Op.GetSource()
		name, ok := strings.CutPrefix(source.GetIdentifier(), planner.LocalPrefix)
		if !ok {
			continue
		}
		var excludes []string
		if list := source.Attrs[pb.AttrExcludePatterns]; list != "" {
			if json.Unmarshal([]byte(list), &excludes) != nil {
				excludes = nil // as for invalid patterns
			}
		}
		links, dir := tree.LinksTo("/", g.Locals[name].Dir)
		for _, link := range links {
			s.addFile(link)
		}
		s.addAbove(dir)
		s.contexts = append(s.contexts, newContext(dir, excludes, reads[step]))
	}
	return s
}

// add adds files, the links on the way to them, and the files that these lead to.
func (s set) add(files []string) {
	for _, f := range files {
		links, real := tree.LinksTo("/", f)
		for _, p := range append(links, real) {
			s.addFile(p)
		}
	}
}

func (s set) addFile(path string) {
	s.files[path] = true
	s.addAbove(path)
}

// addAbove adds the folders above a path.
func (s set) addAbove(path string) {
	for dir := filepath.Dir(path); !s.above[dir]; dir = filepath.Dir(dir) {
		s.above[dir] = true
	}
}

// addAll adds everything in another set.
func (s *set) addAll(other set) {
	maps.Copy(s.files, other.files)
	maps.Copy(s.above, other.above)
	s.contexts = append(s.contexts, other.contexts...)
}

// newContext returns what is read of the build context dir. If its ignore patterns are invalid, nothing is ignored:
// the build reports them, and the next change of the ignore file starts another one.
func newContext(dir string, excludes, reads []string) buildContext {
	c := buildContext{dir: dir}
	for _, p := range reads {
		links, real := tree.LinksTo(dir, beforeWildcard(p))
		for _, at := range append(links, real) {
			if rel, err := filepath.Rel(dir, at); err == nil { // both are absolute
				c.reads = append(c.reads, rel)
			}
		}
	}
	if len(excludes) > 0 {
		if ignore, err := patternmatcher.New(excludes); err == nil {
			c.excludes, c.ignore = excludes, ignore
		}
	}
	return c
}

// beforeWildcard returns the part of a path before its first component with a wildcard.
func beforeWildcard(p string) string {
	parts := strings.Split(p, "/")
	if i := slices.IndexFunc(parts, func(c string) bool { return strings.ContainsAny(c, `*?[\`) }); i >= 0 {
		parts = parts[:i]
	}
	return strings.Join(parts, "/")
}

// concerns reports whether a change of a path may change what is built or watched.
func (s set) concerns(path string) bool {
	return s.files[path] || s.above[path] ||
		slices.ContainsFunc(s.contexts, func(c buildContext) bool { return c.concerns(path) })
}

func (c buildContext) concerns(path string) bool {
	rel, err := filepath.Rel(c.dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return false
	}
	if rel == "." {
		return true // created or removed; no pattern ignores the context itself
	}
	read := len(c.reads) == 0 ||
		slices.ContainsFunc(c.reads, func(p string) bool { return within(rel, p) || within(p, rel) })
	if !read || c.ignore == nil {
		return read
	}
	ignored, err := c.ignore.MatchesOrParentMatches(rel)
	return err != nil || !ignored
}

// within reports whether a relative path is dir or lies below it.
func within(path, dir string) bool {
	return dir == "" || dir == "." || path == dir || strings.HasPrefix(path, dir+"/")
}

// folders returns the folders in which a file of the set can change. Its error is that of ctx.
func (s set) folders(ctx context.Context) (map[string]bool, error) {
	all := map[string]bool{}
	for f := range s.files {
		all[nearestDir(filepath.Dir(f))] = true
	}
	for _, c := range s.contexts {
		if err := c.folders(ctx, all); err != nil {
			return nil, err
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
// way to these paths. For a context that is missing or cannot be read, it adds the nearest folder above it: the build
// reports the error, and the creation of the context starts another one.
func (c buildContext) folders(ctx context.Context, all map[string]bool) error {
	files, err := tree.OpenLocal(ctx, c.dir, c.excludes, nil)
	if err != nil {
		all[nearestDir(filepath.Dir(c.dir))] = true
		return nil
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

// below adds the folder at path and all below it. It leaves out those that were removed in the meantime or cannot be
// read: the build reports the latter. Its error is that of ctx.
func (c buildContext) below(ctx context.Context, files *tree.Local, path string, all map[string]bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e, err := files.Lookup(path); err != nil || !e.IsDir() {
		return nil
	}
	entries, err := files.ReadDir(path)
	if err != nil {
		return nil
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
