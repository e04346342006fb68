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

// Selection names the files of a tree that a copy reads.
type Selection struct {
	Src         string
	Follow      bool // follow the last component of Src, or of its part before the first wildcard, if it is a link
	DirContents bool // copy the content of a directory, not the directory: its name does not count
	Renamed     bool // a match gets a name of the reader's: its own does not count
	Wildcard    bool // Src may contain wildcards
	AllowEmpty  bool // a wildcard may match nothing; the directory before the first wildcard must exist
	Include     []string
	Exclude     []string
	// Required lists paths that must each be selected, or have a selected file below them. It is ignored without
	// Include.
	Required []string
}

// Fixed returns Src up to its first wildcard. Every selected file is at or below it, unless a link leads elsewhere.
func (s Selection) Fixed() string {
	src := Rooted(s.Src)
	if s.Wildcard {
		src, _ = splitWildcards(src)
	}
	return src
}

// Match is one path that Src names.
type Match struct {
	Name string // the last component of the path, before links were followed
	Root Entry
	// Files are the selected files, parents before children, sorted by name; the first is Root itself.
	Files []Selected
}

// landing returns the name of a match's root if a copy of the selection may use it.
func (m *Match) landing(s Selection) string {
	if s.Renamed || s.DirContents && m.Root.IsDir() {
		return ""
	}
	return m.Name
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

func (e *NotFoundError) Error() string { return fmt.Sprintf("%q not found", e.Path) }

// Select lists the files that a selection names. The error is a *NotFoundError if Src or a required path is
// missing, or if wildcards match nothing and AllowEmpty is not set.
func Select(ctx context.Context, f FS, s Selection) ([]Match, error) {
	var all []Match
	err := scan(ctx, f, s, visitor{match: func(m Match) error {
		all = append(all, m)
		return nil
	}, file: func(file Selected) error {
		m := &all[len(all)-1]
		m.Files = append(m.Files, file)
		return nil
	}})
	return all, err
}

// visitor receives the matches and files of a selection: each match without its files, then the files.
type visitor struct {
	match func(Match) error
	file  func(Selected) error
	// whole, if set, is called with a directory of a build context that is selected entirely, instead of file for each
	// file below it.
	whole func(l *Local, dir string) error
}

// scan calls v with the matches and files of a selection in order.
func scan(ctx context.Context, f FS, s Selection, v visitor) error {
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
		if out, err := s.excluded(f, w.exclude, name); err != nil || out {
			if err != nil {
				return err
			}
			continue
		}
		if err := w.match(name, s.Follow, v.match); err != nil {
			return err
		}
	}
	return needed.check()
}

// excluded reports whether Exclude has a path that a wildcard matched: as it is below the part of Src before the first
// wildcard, or as it is below the root. BuildKit applies the patterns below each match only, so that
// COPY --exclude=a.txt *.txt copies a.txt. A directory is not excluded here if a pattern may except files in it.
func (s Selection) excluded(f Lister, exclude *patternmatcher.PatternMatcher, name string) (bool, error) {
	if exclude == nil || !s.Wildcard || name == Rooted(s.Src) {
		return false, nil
	}
	for _, p := range []string{strings.TrimPrefix(name, strings.TrimSuffix(s.Fixed(), "/")+"/"), name[1:]} {
		out, err := exclude.MatchesOrParentMatches(p)
		if err == nil && out && exclude.Exclusions() {
			e, lerr := f.Lookup(name)
			out = lerr != nil || !e.IsDir()
		}
		if err != nil || out {
			return out, err
		}
	}
	return false, nil
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

// Glob lists the paths that match a pattern with wildcards, sorted. It follows links in the path before the first
// wildcard, except the last component. The error is a *NotFoundError if that path does not exist.
func Glob(f Lister, pattern string) ([]string, error) {
	return sources(f, Selection{Src: pattern, Wildcard: true})
}

// sources returns the paths that Src matches. Src itself is one if it matches nothing else and a file has that name:
// next.js names files [id].js.
func sources(f Lister, s Selection) ([]string, error) {
	src := Rooted(s.Src)
	fixed, pattern := splitWildcards(src)
	if !s.Wildcard || pattern == "" {
		return []string{src}, nil
	}
	names, err := matching(f, s, fixed, pattern)
	if len(names) > 0 {
		return names, err
	}
	at, rerr := Resolve(f, src, s.Follow)
	if rerr != nil {
		return names, err
	}
	if _, lerr := f.Lookup(at); lerr != nil {
		return names, err
	}
	return []string{src}, nil
}

// matching returns the paths that match a pattern below fixed.
func matching(f Lister, s Selection, fixed, pattern string) ([]string, error) {
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

// splitWildcards splits a clean path before its first component with a wildcard.
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

// glob lists the paths below base that match a pattern. A wildcard does not match a slash, so each component is matched
// in its own directory. Links are not followed.
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

// required checks that each required path is selected or has a selected file below it, from the root of the tree.
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
		rest, ok := strings.CutPrefix(path.Join("/", r.src, file.Rel), strings.TrimSuffix(Rooted(want), "/"))
		r.seen[i] = r.seen[i] || ok && (rest == "" || rest[0] == '/')
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

// walker calls show with the files that the patterns select.
type walker struct {
	ctx              context.Context
	fs               FS
	include, exclude *patternmatcher.PatternMatcher
	show             func(Selected) error
	whole            func(*Local, string) error // of visitor
	// pending are directories that no pattern selects, each in the one before. They are passed to show before the first
	// selected file below them.
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

// walk calls show with the selected files below a directory.
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
			if err := w.emit(file); err != nil {
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

// below returns the path of a directory's entry relative to the match's root, given that of the directory. It is
// usually a substring of e.Path, so nothing is allocated.
func below(rel string, e Entry) string {
	n := len(e.Path) - len(e.Name()) - len(rel) - 1
	if rel != "" && n > 0 && e.Path[n:n+len(rel)] == rel && e.Path[n+len(rel)] == '/' {
		return e.Path[n:]
	}
	return path.Join(rel, e.Name())
}

// emit calls show with the pending directories and then with a file.
func (w *walker) emit(file Selected) error {
	for _, dir := range w.pending {
		if err := w.show(dir); err != nil {
			return err
		}
	}
	w.pending = w.pending[:0]
	return w.show(file)
}

// matches reports whether m matches p; without a matcher it returns absent. above is m's result for the directory of p.
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
