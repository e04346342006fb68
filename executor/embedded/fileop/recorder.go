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
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// Lookup is one lookup of an operation in its parent tree, with the answer.
type Lookup struct{ Path, Answer string }

// recorder looks paths up in a tree and records every lookup with its answer.
//
// The purpose is to share layers between bases. The group key of a file operation has everything but the parent, so
// layers built on other parents are candidates for this step. A COPY rarely depends on more of its parent than the
// directories on the way to the destination. So a candidate is stored with the lookups that it made, and Recheck
// repeats them on the new parent. The invariant: an operation reads its parent through the recorder only, and an answer
// contains everything that can change the layer. If a lookup were missing, or an answer left something out, the step
// would get a layer built for another base, such as a wrong owner of a parent directory. An answer must not contain
// more either, such as times or sizes: candidates would never match. A file that is copied whole from the parent
// (kindCopyUp) is never equal. Recheck costs a few lookups and no content, apart from /etc/passwd and /etc/group.
// TestRecheck shows parents on which a candidate matches and on which it does not.
type recorder struct {
	fs tree.FS

	mu      sync.Mutex
	answers map[string]string
}

func newRecorder(f tree.FS) *recorder { return &recorder{fs: f, answers: map[string]string{}} }

// The kinds of lookups, stored as the first byte of Lookup.Path.
const (
	kindEntry   = "e"
	kindList    = "l"
	kindContent = "c"
	kindCopyUp  = "w" // a whole file of the parent was copied into the layer: Recheck always fails
	kindUnknown = "u" // an owner that the parent does not have: it follows from the content of the account file
)

func (r *recorder) note(kind, path, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[kind+path] = answer
}

// lookups returns all recorded lookups in order.
func (r *recorder) lookups() []Lookup {
	all := make([]Lookup, 0, len(r.answers))
	for p, a := range r.answers {
		all = append(all, Lookup{p, a})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Path < all[j].Path })
	return all
}

// Lookup looks up an entry.
func (r *recorder) Lookup(p string) (tree.Entry, error) {
	e, answer, err := entryAnswer(r.fs, p)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.note(kindEntry, p, answer)
	}
	return e, err
}

// entryAnswer returns an entry, and the part of it that a layer can depend on: no times and no sizes.
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

// EntryPath returns the path of a lookup of an entry.
func EntryPath(lookup string) (string, bool) { return strings.CutPrefix(lookup, kindEntry) }

// Attributes returns the attributes of a directory that a layer repeats when it lists it: mode, owner, ACLs and user.*;
// "" if there is no directory.
func Attributes(f tree.FS, p string) (string, error) {
	e, answer, err := entryAnswer(f, p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && !e.IsDir() {
		return "", nil
	}
	return answer, err
}

// ReadDir lists a directory. The answer is the names in it.
func (r *recorder) ReadDir(p string) ([]tree.Entry, error) {
	entries, answer, err := listAnswer(r.fs, p)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.note(kindList, p, answer)
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

// content reads a small regular file and follows links inside the tree. The answer is its digest.
func (r *recorder) content(p string, limit int64) ([]byte, error) {
	raw, answer, err := contentAnswer(r.fs, p, limit)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		r.note(kindContent, p, answer)
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
		return nil, "", fmt.Errorf("%s is not a regular file of at most %d bytes", p, limit)
	}
	file, err := f.Open(at)
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, limit))
	return raw, digest.FromBytes(raw).String(), err
}

// Recheck reports whether a parent gives the recorded answer to every lookup. If so, the operation that recorded them
// would write the same layer on this parent.
func Recheck(parent tree.FS, lookups []Lookup) bool {
	for _, l := range lookups {
		if l.Path == "" {
			return false
		}
		kind, p := l.Path[:1], l.Path[1:]
		if kind == kindUnknown {
			continue
		}
		var answer string
		var err error
		switch kind {
		case kindEntry:
			_, answer, err = entryAnswer(parent, p)
		case kindList:
			_, answer, err = listAnswer(parent, p)
		case kindContent:
			_, answer, err = contentAnswer(parent, p, maxPasswd)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) || answer != l.Answer || answer == "" && kind != kindList {
			return false
		}
	}
	return true
}
