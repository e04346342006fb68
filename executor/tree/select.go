package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"

	"github.com/moby/patternmatcher"
)

// Selection says which files of a tree a copy reads.
type Selection struct {
	Src         string
	Follow      bool // follow a link that Src itself is
	DirContents bool // of a directory, copy what is in it
	Wildcard    bool // Src may hold wildcards
	AllowEmpty  bool // a wildcard may match nothing
	Include     []string
	Exclude     []string
	Required    []string // paths that must be among what Include selects
}

// Fixed is Src up to its first wildcard: all that is selected is there or below, as long as no link leads away.
func (s Selection) Fixed() string {
	src := Rooted(s.Src)
	if s.Wildcard {
		src, _ = splitWildcards(src)
	}
	return src
}

// Match is one path that Src names.
type Match struct {
	Name string // the last component as it was named, before links were followed
	Root Entry  // what it is
	// Files are the selected files, parents before children, sorted by name; the first is Root itself.
	Files []Selected
}

// Selected is one file of a match.
type Selected struct {
	Rel   string // path below the match's root; "" for the root
	Entry Entry
	// Implied is set for a directory that no pattern selects but that has selected files below it.
	Implied bool
}

// NotFoundError reports that a tree lacks a path that a selection names.
type NotFoundError struct{ Path string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("%q is not there", e.Path) }

// Select lists the files that a selection names. The error is a *NotFoundError when Src, without wildcards, or a
// required path is missing.
func Select(ctx context.Context, f FS, s Selection) ([]Match, error) {
	var all []Match
	err := scan(ctx, f, s, viewer{match: func(m Match) error {
		all = append(all, m)
		return nil
	}, file: func(file Selected) error {
		m := &all[len(all)-1]
		m.Files = append(m.Files, file)
		return nil
	}})
	return all, err
}

// viewer receives what a selection names: each match without its files, then the files.
type viewer struct {
	match func(Match) error
	file  func(Selected) error
	// whole, when not nil, is shown a directory of a build context of which everything is selected, in place of the
	// files below it.
	whole func(l *Local, dir string) error
}

// scan shows the files that a selection names one after the other.
func scan(ctx context.Context, f FS, s Selection, v viewer) error {
	names, err := sources(f, s)
	if err != nil {
		return err
	}
	if len(names) == 0 && !s.AllowEmpty {
		return &NotFoundError{s.Src}
	}
	needed := newRequired(s)
	w := &walker{ctx: ctx, fs: f, whole: v.whole, show: func(one Selected) error {
		needed.selected(one)
		return v.file(one)
	}}
	if w.include, err = matcher(s.Include); err != nil {
		return err
	}
	if w.exclude, err = matcher(s.Exclude); err != nil {
		return err
	}
	for _, name := range names {
		if err := w.match(name, s.Follow, v.match); err != nil {
			return err
		}
	}
	return needed.check()
}

func matcher(patterns []string) (*patternmatcher.PatternMatcher, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("patterns %q: %w", patterns, err)
	}
	return m, nil
}

// Lister is the part of an FS that finds names.
type Lister interface {
	Lookuper
	ReadDir(path string) ([]Entry, error)
}

// Glob lists the paths that a pattern with wildcards names, sorted. Links on the way to the first wildcard are
// followed.
func Glob(f Lister, pattern string) ([]string, error) {
	return sources(f, Selection{Src: pattern, Wildcard: true})
}

// sources are the paths that Src names.
func sources(f Lister, s Selection) ([]string, error) {
	src := Rooted(s.Src)
	fixed, pattern := splitWildcards(src)
	if !s.Wildcard || pattern == "" {
		return []string{src}, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("source %q: %w", s.Src, err)
	}
	base, err := Resolve(f, fixed, s.Follow)
	if err != nil {
		return nil, err
	}
	if _, err := f.Lookup(base); errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{fixed}
	}
	return glob(f, base, pattern)
}

// splitWildcards cuts a clean path before its first component with a wildcard.
func splitWildcards(src string) (fixed, pattern string) {
	parts := strings.Split(strings.TrimPrefix(src, "/"), "/")
	for i, p := range parts {
		if hasWildcard(p) {
			return "/" + strings.Join(parts[:i], "/"), strings.Join(parts[i:], "/")
		}
	}
	return src, ""
}

func hasWildcard(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// glob finds what a pattern names below base. A wildcard matches no slash, so each component is matched in its own
// directory; links on the way are not followed.
func glob(f Lister, base, pattern string) ([]string, error) {
	first, rest, more := strings.Cut(pattern, "/")
	entries, err := f.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if ok, err := path.Match(first, e.Name()); err != nil || !ok {
			continue
		}
		if !more {
			all = append(all, e.Path)
			continue
		}
		if e.IsDir() {
			below, err := glob(f, e.Path, rest)
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	sort.Strings(all)
	return all, nil
}

// required are the paths which must, from the root of the tree, begin some of what is selected.
type required struct {
	src  string
	want []string
	seen []bool
}

func newRequired(s Selection) *required {
	r := &required{src: s.Src}
	if len(s.Include) > 0 {
		r.want, r.seen = s.Required, make([]bool, len(s.Required))
	}
	return r
}

func (r *required) selected(file Selected) {
	for i, want := range r.want {
		r.seen[i] = r.seen[i] || strings.HasPrefix(path.Join("/", r.src, file.Rel), Rooted(want))
	}
}

func (r *required) check() error {
	for i, want := range r.want {
		if !r.seen[i] {
			return &NotFoundError{want}
		}
	}
	return nil
}

// walker shows what patterns leave of a tree.
type walker struct {
	ctx              context.Context
	fs               FS
	include, exclude *patternmatcher.PatternMatcher
	show             func(Selected) error
	whole            func(*Local, string) error // of viewer
	// pending are directories that no pattern selects, each in the one before: they are shown before the first file
	// below them.
	pending []Selected
}

func (w *walker) match(name string, follow bool, match func(Match) error) error {
	m := Match{Name: path.Base(name)}
	at, err := Resolve(w.fs, name, follow)
	if err != nil {
		return err
	}
	m.Root, err = w.fs.Lookup(at)
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{name}
	}
	if err != nil {
		return err
	}
	if err := match(m); err != nil {
		return err
	}
	if err := w.show(Selected{Entry: m.Root}); err != nil || !m.Root.IsDir() {
		return err
	}
	if l, ok := w.fs.(*Local); ok && w.include == nil && w.exclude == nil {
		if w.whole != nil {
			return w.whole(l, at)
		}
		l.preload(w.ctx, at, func(string, *localDir) {})
	}
	return w.walk(m.Root, "", patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
}

// walk shows what is selected below a directory.
func (w *walker) walk(dir Entry, rel string, in, out patternmatcher.MatchInfo) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	entries, err := w.fs.ReadDir(dir.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		child := below(rel, e)
		included, in, err := matches(w.include, child, in, true)
		if err != nil {
			return err
		}
		excluded, out, err := matches(w.exclude, child, out, false)
		if err != nil {
			return err
		}
		file := Selected{Rel: child, Entry: e, Implied: !included || excluded}
		switch {
		case !e.IsDir() && file.Implied:
			continue
		case file.Implied:
			w.pending = append(w.pending, file)
		default:
			if err := w.shown(file); err != nil {
				return err
			}
		}
		waiting := len(w.pending)
		if e.IsDir() && (!excluded || w.exclude.Exclusions()) {
			if err := w.walk(e, child, in, out); err != nil {
				return err
			}
		}
		if file.Implied && len(w.pending) == waiting {
			w.pending = w.pending[:waiting-1]
		}
	}
	return nil
}

// below is the path of an entry of a directory, given the directory's own: most often the end of the entry's, which
// takes no memory.
func below(rel string, e Entry) string {
	n := len(e.Path) - len(e.Name()) - len(rel) - 1
	if rel != "" && n > 0 && e.Path[n:n+len(rel)] == rel && e.Path[n+len(rel)] == '/' {
		return e.Path[n:]
	}
	return path.Join(rel, e.Name())
}

// shown shows a file after the directories above it.
func (w *walker) shown(file Selected) error {
	for _, dir := range w.pending {
		if err := w.show(dir); err != nil {
			return err
		}
	}
	w.pending = w.pending[:0]
	return w.show(file)
}

// matches asks a matcher about a path, given what it said of the directory above; without a matcher it is absent.
func matches(
	m *patternmatcher.PatternMatcher, p string, above patternmatcher.MatchInfo, absent bool,
) (bool, patternmatcher.MatchInfo, error) {
	if m == nil {
		return absent, patternmatcher.MatchInfo{}, nil
	}
	ok, info, err := m.MatchesUsingParentResults(p, above)
	if err != nil {
		return false, info, fmt.Errorf("match %s: %w", p, err)
	}
	return ok, info, nil
}
