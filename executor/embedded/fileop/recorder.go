package fileop

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/tree"
)

// Lookup is a question that an operation asked of the tree that it stands on, and the answer.
type Lookup struct{ Path, Answer string }

// recorder asks a tree and notes every question.
type recorder struct {
	fs tree.FS

	mu      sync.Mutex
	answers map[string]string
}

func newRecorder(f tree.FS) *recorder { return &recorder{fs: f, answers: map[string]string{}} }

// The kinds of questions, as a prefix of Lookup.Path.
const (
	askEntry   = "e"
	askList    = "l"
	askContent = "c"
	askWhole   = "w" // a whole file and its attributes were taken; no two parents are alike in that
)

func (r *recorder) note(kind, path, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[kind+path] = answer
}

// lookups lists what was asked, sorted.
func (r *recorder) lookups() []Lookup {
	all := make([]Lookup, 0, len(r.answers))
	for p, a := range r.answers {
		all = append(all, Lookup{p, a})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Path < all[j].Path })
	return all
}

// Lookup asks for an entry.
func (r *recorder) Lookup(p string) (tree.Entry, error) {
	e, answer, err := entryAnswer(r.fs, p)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.note(askEntry, p, answer)
	}
	return e, err
}

// entryAnswer is what an operation can depend on in an entry: neither times nor sizes.
func entryAnswer(f tree.FS, p string) (tree.Entry, string, error) {
	e, err := f.Lookup(p)
	if errors.Is(err, fs.ErrNotExist) {
		return e, "-", err
	}
	if err != nil {
		return e, "", err
	}
	if e.IsLink() {
		return e, "link " + e.Link, nil
	}
	answer := fmt.Sprintf("%o %d:%d", e.Mode, e.UID, e.GID)
	if e.IsDir() {
		attrs, err := f.Xattrs(p)
		if err != nil {
			return e, "", err
		}
		answer += xattrAnswer(attrs)
	}
	return e, answer, nil
}

func xattrAnswer(attrs map[string][]byte) string {
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, " %q=%q", name, attrs[name])
	}
	return b.String()
}

// ReadDir asks for the names in a directory.
func (r *recorder) ReadDir(p string) ([]tree.Entry, error) {
	entries, answer, err := listAnswer(r.fs, p)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.note(askList, p, answer)
	}
	return entries, err
}

func listAnswer(f tree.FS, p string) ([]tree.Entry, string, error) {
	entries, err := f.ReadDir(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "-", err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return entries, strings.Join(names, "/"), err
}

// content asks for the whole of a small regular file, with its links inside the tree followed.
func (r *recorder) content(p string, limit int64) ([]byte, error) {
	raw, answer, err := contentAnswer(r.fs, p, limit)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.note(askContent, p, answer)
	}
	return raw, err
}

func contentAnswer(f tree.FS, p string, limit int64) ([]byte, string, error) {
	at, err := tree.Resolve(f, p, true)
	if err != nil {
		return nil, "", err
	}
	e, err := f.Lookup(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "-", err
	}
	if err != nil {
		return nil, "", err
	}
	if !e.IsRegular() || e.Size > limit {
		return nil, "", fmt.Errorf("%s is no regular file of at most %d bytes", p, limit)
	}
	file, err := f.Open(at)
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, limit))
	return raw, digest.FromBytes(raw).String(), err
}

// Recheck says whether another tree gives the same answers to all look-ups, so that a layer which was made on one tree
// is the layer for the other too.
func Recheck(parent tree.FS, lookups []Lookup) bool {
	for _, l := range lookups {
		if l.Path == "" {
			return false
		}
		kind, p := l.Path[:1], l.Path[1:]
		var answer string
		var err error
		switch kind {
		case askEntry:
			_, answer, err = entryAnswer(parent, p)
		case askList:
			_, answer, err = listAnswer(parent, p)
		case askContent:
			_, answer, err = contentAnswer(parent, p, maxPasswd)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) || answer != l.Answer || answer == "" && kind != askList {
			return false
		}
	}
	return true
}
