package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Local is a build context, read in place: a directory without what its ignore patterns exclude. Every owner is 0:0,
// there are no extended attributes, and a socket is an empty file, as in a context that BuildKit receives. Directories are
// read once, when they are first asked for; ignored ones never. It may be used by several goroutines.
type Local struct {
	root    *os.File
	ignore  *patternmatcher.PatternMatcher // nil when nothing is ignored
	negated []string                       // the patterns that start with "!", without it
	stat    *StatIndex

	mu   sync.Mutex
	dirs map[string]*localDir
}

// localDir is a directory that was read.
type localDir struct {
	once    sync.Once
	err     error
	entries []Entry // visible ones, sorted
	files   map[string]*localFile
}

// localFile is a visible name in a directory.
type localFile struct {
	entry Entry
	stat  unix.Stat_t
	match patternmatcher.MatchInfo // of the ignore patterns, for what is below

	once sync.Once
	sum  digest.Digest
	err  error
}

// OpenLocal opens the context in dir. excludes are ignore patterns as .dockerignore has them. stat may be nil.
func OpenLocal(_ context.Context, dir string, excludes []string, stat *StatIndex) (*Local, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	l := &Local{root: root, stat: stat, dirs: map[string]*localDir{}}
	if len(excludes) > 0 {
		if l.ignore, err = patternmatcher.New(excludes); err != nil {
			return nil, errors.Join(fmt.Errorf("ignore patterns: %w", err), root.Close())
		}
		for _, p := range l.ignore.Patterns() {
			if p.Exclusion() {
				l.negated = append(l.negated, p.String())
			}
		}
	}
	return l, nil
}

// Close closes the directory.
func (l *Local) Close() error { return l.root.Close() }

// Lookup implements FS.
func (l *Local) Lookup(p string) (Entry, error) {
	p = path.Clean("/" + p)
	if p == "/" {
		return Entry{Path: "/", Mode: unix.S_IFDIR | 0o755}, nil
	}
	f, err := l.file(p)
	if err != nil {
		return Entry{}, err
	}
	return f.entry, nil
}

// ReadDir implements FS.
func (l *Local) ReadDir(p string) ([]Entry, error) {
	d, err := l.dir(path.Clean("/" + p))
	if err != nil {
		return nil, err
	}
	return d.entries, nil
}

// Open implements FS.
func (l *Local) Open(p string) (*os.File, error) {
	p = path.Clean("/" + p)
	f, err := l.file(p)
	if err != nil {
		return nil, err
	}
	if f.stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return os.Open(os.DevNull)
	}
	return (&dirLayer{l.root}).open(p)
}

// Xattrs implements FS: a context has none.
func (l *Local) Xattrs(string) (map[string][]byte, error) { return nil, nil }

// Digest implements FS. A file is read once, and not at all when the stat index knows it.
func (l *Local) Digest(ctx context.Context, p string) (digest.Digest, error) {
	p = path.Clean("/" + p)
	f, err := l.file(p)
	if err != nil {
		return "", err
	}
	f.once.Do(func() { f.sum, f.err = l.hash(ctx, p, f) })
	return f.sum, f.err
}

func (l *Local) hash(ctx context.Context, p string, f *localFile) (digest.Digest, error) {
	if l.stat != nil {
		if d, ok := l.stat.get(&f.stat); ok {
			return d, nil
		}
	}
	r, err := l.Open(p)
	if err != nil {
		return "", err
	}
	defer r.Close()
	d, err := digestOf(ctx, r)
	if err == nil && l.stat != nil {
		l.stat.put(&f.stat, d)
	}
	return d, err
}

// file finds a visible file.
func (l *Local) file(p string) (*localFile, error) {
	d, err := l.dir(path.Dir(p))
	if err != nil {
		return nil, err
	}
	f, ok := d.files[path.Base(p)]
	if !ok {
		return nil, notExist(p)
	}
	return f, nil
}

// dir reads a visible directory, once.
func (l *Local) dir(p string) (*localDir, error) {
	var above patternmatcher.MatchInfo
	if p != "/" {
		f, err := l.file(p)
		if err != nil {
			return nil, err
		}
		if !f.entry.IsDir() {
			return nil, notExist(p)
		}
		above = f.match
	}
	l.mu.Lock()
	d, ok := l.dirs[p]
	if !ok {
		d = &localDir{}
		l.dirs[p] = d
	}
	l.mu.Unlock()
	d.once.Do(func() { d.err = l.read(p, above, d) })
	return d, d.err
}

func (l *Local) read(p string, above patternmatcher.MatchInfo, d *localDir) error {
	fd, err := openAt(l.root, p, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	sort.Strings(names)
	d.files = make(map[string]*localFile, len(names))
	for _, name := range names {
		file, err := l.visible(fd, p, name, above)
		if err != nil {
			return err
		}
		if file != nil {
			d.files[name] = file
			d.entries = append(d.entries, file.entry)
		}
	}
	return nil
}

// visible stats one name of a directory; nil when it is ignored or has just vanished.
func (l *Local) visible(fd int, dir, name string, above patternmatcher.MatchInfo) (*localFile, error) {
	p := path.Join(dir, name)
	ignored, match, err := l.ignored(p, above)
	if err != nil || ignored && len(l.negated) == 0 {
		return nil, err
	}
	f := &localFile{match: match}
	if err := unix.Fstatat(fd, name, &f.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	if f.entry, err = contextEntry(fd, name, p, &f.stat); err != nil {
		return nil, err
	}
	if !ignored {
		return f, nil
	}
	// An ignored directory is there if something below it is not ignored.
	if !f.entry.IsDir() || !l.mayHold(p) {
		return nil, nil
	}
	kept, err := l.holds(p, match)
	if err != nil || !kept {
		return nil, err
	}
	return f, nil
}

func (l *Local) ignored(p string, above patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo, error) {
	if l.ignore == nil {
		return false, patternmatcher.MatchInfo{}, nil
	}
	ignored, match, err := l.ignore.MatchesUsingParentResults(strings.TrimPrefix(p, "/"), above)
	if err != nil {
		return false, match, fmt.Errorf("match %s against the ignore patterns: %w", p, err)
	}
	return ignored, match, nil
}

// mayHold says whether a "!" pattern can name anything below an ignored directory. Patterns with wildcards can.
func (l *Local) mayHold(p string) bool {
	below := strings.TrimPrefix(p, "/") + "/"
	for _, n := range l.negated {
		literal, _, wild := strings.Cut(n, "*")
		if i := strings.IndexAny(literal, "?[\\"); i >= 0 {
			literal, wild = literal[:i], true
		}
		if strings.HasPrefix(n+"/", below) || wild && (strings.HasPrefix(below, literal) || strings.HasPrefix(literal, below)) {
			return true
		}
	}
	return false
}

// holds says whether an ignored directory has something that is not ignored.
func (l *Local) holds(p string, above patternmatcher.MatchInfo) (bool, error) {
	d := &localDir{}
	if err := l.read(p, above, d); err != nil {
		return false, err
	}
	return len(d.entries) > 0, nil
}

// contextEntry is a file as a context shows it.
func contextEntry(fd int, name, p string, st *unix.Stat_t) (Entry, error) {
	e := entryOf(p, st)
	e.UID, e.GID = 0, 0
	switch e.Type() {
	case unix.S_IFLNK:
		target, err := readlinkAt(fd, name)
		if err != nil {
			return e, &fs.PathError{Op: "readlink", Path: p, Err: err}
		}
		e.Link = target
	case unix.S_IFSOCK:
		e.Mode, e.Size = unix.S_IFREG|0o755, 0
	}
	return e, nil
}
