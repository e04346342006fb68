package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
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
	// Implied is a directory that no pattern selects, but something below it.
	Implied bool
}

// NotFoundError says that a tree has not what a selection names.
type NotFoundError struct{ Path string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("%q is not there", e.Path) }

// Select lists the files that a selection names. The error is a *NotFoundError when Src, without wildcards, or a
// required path is missing.
func Select(ctx context.Context, f FS, s Selection) ([]Match, error) {
	names, err := sources(f, s)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 && !s.AllowEmpty {
		return nil, &NotFoundError{s.Src}
	}
	w := &walker{ctx: ctx, fs: f}
	if w.include, err = matcher(s.Include); err != nil {
		return nil, err
	}
	if w.exclude, err = matcher(s.Exclude); err != nil {
		return nil, err
	}
	var all []Match
	for _, name := range names {
		m, err := w.match(name, s.Follow)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, required(all, s)
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

// Glob lists the paths that a pattern with wildcards names, sorted. Links on the way to the first wildcard are followed.
func Glob(f Lister, pattern string) ([]string, error) {
	return sources(f, Selection{Src: pattern, Wildcard: true})
}

// sources are the paths that Src names.
func sources(f Lister, s Selection) ([]string, error) {
	src := path.Clean("/" + s.Src)
	fixed, pattern := splitWildcards(src)
	if !s.Wildcard || pattern == "" {
		return []string{src}, nil
	}
	if _, err := filepath.Match(pattern, ""); err != nil {
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
		if ok, err := filepath.Match(first, e.Name()); err != nil || !ok {
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

// required checks that the paths which must be there, from the root of the tree, begin some of what was selected.
func required(all []Match, s Selection) error {
	if len(s.Include) == 0 {
		return nil
	}
	for _, want := range s.Required {
		if !selects(all, s.Src, path.Clean("/"+want)) {
			return &NotFoundError{want}
		}
	}
	return nil
}

func selects(all []Match, src, want string) bool {
	for _, m := range all {
		for _, file := range m.Files {
			if strings.HasPrefix(path.Join("/", src, file.Rel), want) {
				return true
			}
		}
	}
	return false
}

// walker lists what patterns leave of a tree.
type walker struct {
	ctx              context.Context
	fs               FS
	include, exclude *patternmatcher.PatternMatcher
}

func (w *walker) match(name string, follow bool) (Match, error) {
	m := Match{Name: path.Base(name)}
	at, err := Resolve(w.fs, name, follow)
	if err != nil {
		return m, err
	}
	m.Root, err = w.fs.Lookup(at)
	if errors.Is(err, fs.ErrNotExist) {
		return m, &NotFoundError{name}
	}
	if err != nil {
		return m, err
	}
	m.Files = []Selected{{Entry: m.Root}}
	if m.Root.IsDir() {
		err = w.walk(m.Root, "", &m.Files, patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
	}
	return m, err
}

// walk appends what is selected below a directory.
func (w *walker) walk(dir Entry, rel string, files *[]Selected, in, out patternmatcher.MatchInfo) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	entries, err := w.fs.ReadDir(dir.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		child := path.Join(rel, e.Name())
		included, in, err := matches(w.include, child, in, true)
		if err != nil {
			return err
		}
		excluded, out, err := matches(w.exclude, child, out, false)
		if err != nil {
			return err
		}
		if !e.IsDir() {
			if included && !excluded {
				*files = append(*files, Selected{Rel: child, Entry: e})
			}
			continue
		}
		at := len(*files)
		*files = append(*files, Selected{Rel: child, Entry: e, Implied: !included || excluded})
		if !excluded || w.exclude.Exclusions() {
			if err := w.walk(e, child, files, in, out); err != nil {
				return err
			}
		}
		if (*files)[at].Implied && len(*files) == at+1 {
			*files = (*files)[:at]
		}
	}
	return nil
}

// matches asks a matcher about a path, given what it said of the directory above; without a matcher it is absent.
func matches(m *patternmatcher.PatternMatcher, p string, above patternmatcher.MatchInfo, absent bool) (bool, patternmatcher.MatchInfo, error) {
	if m == nil {
		return absent, patternmatcher.MatchInfo{}, nil
	}
	ok, info, err := m.MatchesUsingParentResults(p, above)
	if err != nil {
		return false, info, fmt.Errorf("match %s: %w", p, err)
	}
	return ok, info, nil
}
