package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/moby/patternmatcher"
	digest "github.com/opencontainers/go-digest"
)

// ErrChanged is wrapped when a file of a build context changed after its first lookup. Local itself notices only files
// that vanish or change their type. To notice new content, callers hash the bytes that they copy, compare them with
// Digest, and return the error of Invalidate.
var ErrChanged = errors.New("the file changed while it was read")

// Local is a build context, read in place: a directory without the files that its ignore patterns exclude. Every owner
// is 0:0, there are no extended attributes, and a socket is an empty file, as in a context that BuildKit receives.
//
// Each directory is read at most once. An ignored directory is read only if a "!" pattern could match below it. Local
// is safe for concurrent use. It keeps about 110 bytes for each file that it has read, and the file's name.
type Local struct {
	root    *diskRoot
	ignore  *patternmatcher.PatternMatcher // nil when nothing is ignored
	negated []string                       // the patterns that start with "!", without it
	stat    *StatIndex
	opened  time.Time
	patch   Patch  // nil if no file is overridden
	at      string // the absolute path of the directory, without links; set with patch
	top     localDir
	// hashing keeps a file from being hashed twice at once; files share a lock by inode.
	hashing [64]sync.Mutex
	// recorders are free for the totals of further directories.
	recorders sync.Pool
}

// localDir is a directory, read once.
type localDir struct {
	once  sync.Once
	err   error
	match patternmatcher.MatchInfo // of the ignore patterns
	files []localFile              // visible ones, sorted by name
	text  string                   // the files' names and the targets of links
	below []*localDir              // the directories among the files

	totalling sync.Mutex
	total     *total // of the files, computed at its first use; guarded by totalling
}

// localFile is a visible name in a directory. It has no pointers, so the garbage collector does not scan the many files
// of a context.
type localFile struct {
	at                 int    // the offset of the name in localDir.text; the target of a link follows
	nameSize, linkSize uint32 // bytes
	below              int32  // for a directory, its index in localDir.below plus 1; 0 for other files
	// hashed and sum are guarded by hashing; known files have them from the start.
	hashed, known bool
	patched       bool     // from the patch, not on the disk
	sum           [32]byte // of the content, if hashed is set

	mode, nlink        uint32
	size, mtime, ctime int64
	inode, dev, rdev   uint64
}

// placedFile is a file with the directory that it is in.
type placedFile struct {
	*localFile
	in *localDir
}

func (d *localDir) file(i int) placedFile { return placedFile{&d.files[i], d} }
func (d *localDir) name(i int) string     { return d.file(i).name() }

func (f placedFile) name() string { return f.in.text[f.at:][:f.nameSize] }
func (f placedFile) link() string { return f.in.text[f.at+int(f.nameSize):][:f.linkSize] }

// directory returns the content of a directory; nil for another file.
func (f placedFile) directory() *localDir {
	if f.below == 0 {
		return nil
	}
	return f.in.below[f.below-1]
}

// OpenLocal opens the context in dir. excludes are ignore patterns as .dockerignore has them. stat may be nil.
func OpenLocal(_ context.Context, dir string, excludes []string, stat *StatIndex) (*Local, error) {
	root, err := openDiskRoot(dir)
	if err != nil {
		return nil, err
	}
	return newLocal(root, excludes, stat)
}

func newLocal(root *diskRoot, excludes []string, stat *StatIndex) (_ *Local, err error) {
	l := &Local{root: root, stat: stat, opened: time.Now()}
	if stat != nil {
		l.opened = stat.now()
	}
	if len(excludes) > 0 {
		if l.ignore, err = patternmatcher.New(excludes); err != nil {
			return nil, errors.Join(fmt.Errorf("ignore patterns: %w", err), root.close())
		}
		for _, p := range l.ignore.Patterns() {
			if p.Exclusion() {
				l.negated = append(l.negated, p.String())
			}
		}
	}
	return l, nil
}

// Share lets a pool close the directory while it is not read. Call it before the first use.
func (l *Local) Share(p *RootPool) { l.root.share(p) }

// Close closes the directory.
func (l *Local) Close() error { return l.root.close() }

// Lookup implements FS.
func (l *Local) Lookup(p string) (Entry, error) {
	p = Rooted(p)
	if p == "/" {
		return l.itself()
	}
	f, err := l.file(p)
	if err != nil {
		return Entry{}, err
	}
	return f.entry(p), nil
}

// itself returns the entry of the root: always mode 0755; mtime is kept because copies preserve it.
func (l *Local) itself() (Entry, error) {
	mtime, err := l.root.mtime()
	if err != nil {
		return Entry{}, err
	}
	return Entry{Path: "/", Mode: ModeDir | 0o755, Mtime: mtime}, nil
}

// ReadDir implements FS.
func (l *Local) ReadDir(p string) ([]Entry, error) {
	p = Rooted(p)
	d, err := l.dir(p)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(d.files))
	for i := range d.files {
		entries[i] = d.file(i).entry(childOf(p, d.name(i)))
	}
	return entries, nil
}

// Open implements FS.
func (l *Local) Open(p string) (*os.File, error) {
	p = Rooted(p)
	f, err := l.file(p)
	if err != nil {
		return nil, err
	}
	if f.patched {
		return nil, &fs.PathError{Op: "open", Path: p, Err: errors.ErrUnsupported}
	}
	if f.mode&ModeType == ModeSocket {
		return os.Open(os.DevNull)
	}
	r, err := l.root.open(p)
	return r, changedIf(err, p)
}

// Invalidate makes the stat index forget a regular file and returns an error that wraps ErrChanged. Call it if the
// content does not have the file's digest: its times need not have changed, as when it is written through a memory
// mapping.
func (l *Local) Invalidate(p string) error {
	p = Rooted(p)
	if f, err := l.file(p); err == nil && l.stat != nil {
		l.stat.forget(f.localFile)
	}
	return fmt.Errorf("%s: %w", p, ErrChanged)
}

var errNotRegular = errors.New("not a regular file")

func notExist(p string) error { return &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist} }

// changedIf returns an error that wraps ErrChanged if a file that existed before is gone or has another type.
func changedIf(err error, p string) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) {
		return fmt.Errorf("%s: %w", p, ErrChanged) // to the caller it is not missing
	}
	return err
}

// Xattrs implements FS: a context has none.
func (l *Local) Xattrs(string) (map[string][]byte, error) { return nil, nil }

// Digest implements FS. A file is read at most once, and not at all if the stat index has its digest.
func (l *Local) Digest(ctx context.Context, p string) (digest.Digest, error) {
	p = Rooted(p)
	f, err := l.file(p)
	if err != nil {
		return "", err
	}
	sum, err := l.sum(ctx, p, f.localFile)
	if err != nil {
		return "", err
	}
	return digestOfSum(sum), nil
}

// sum returns the digest of a file's content.
func (l *Local) sum(ctx context.Context, p string, f *localFile) (sum [32]byte, err error) {
	one := l.hashingOf(f)
	one.Lock()
	defer one.Unlock()
	if f.hashed {
		return f.sum, nil
	}
	if sum, err = l.hash(ctx, p, f); err == nil {
		f.sum, f.hashed = sum, true
	}
	return sum, err
}

// hashingOf returns the lock for the content of a file. Without an inode number it depends on the file's name.
func (l *Local) hashingOf(f *localFile) *sync.Mutex {
	n := f.inode
	if n == 0 {
		n = uint64(f.at)
	}
	return &l.hashing[n%uint64(len(l.hashing))]
}

func (l *Local) hash(ctx context.Context, p string, f *localFile) (sum [32]byte, err error) {
	if f.patched {
		d, err := l.patch.Digest(ctx, filepath.Join(l.at, p))
		if err != nil {
			return sum, err
		}
		return sumOfDigest(d)
	}
	r, err := l.Open(p)
	if err != nil {
		return sum, err
	}
	defer r.Close()
	if sum, err = sumOfFile(ctx, r, f.size); err == nil && l.stat != nil {
		l.stat.put(f, sum, l.opened)
	}
	return sum, err
}

// file finds a visible file by its clean path.
func (l *Local) file(p string) (placedFile, error) {
	at, rest := &l.top, strings.TrimPrefix(p, "/")
	for read := "/"; ; {
		if err := l.enter(read, at); err != nil {
			return placedFile{}, err
		}
		name, below, more := strings.Cut(rest, "/")
		i, found := sort.Find(len(at.files), func(i int) int { return strings.Compare(name, at.name(i)) })
		if !found {
			return placedFile{}, notExist(p)
		}
		f := at.file(i)
		if !more {
			return f, nil
		}
		if at = f.directory(); at == nil {
			return placedFile{}, notExist(p)
		}
		rest, read = below, p[:len(p)-len(below)-1]
	}
}

// dir finds a visible directory by its clean path and reads it.
func (l *Local) dir(p string) (*localDir, error) {
	if p == "/" {
		return &l.top, l.enter(p, &l.top)
	}
	f, err := l.file(p)
	if err != nil {
		return nil, err
	}
	d := f.directory()
	if d == nil {
		return nil, notExist(p)
	}
	return d, l.enter(p, d)
}

// hasContent reports whether a copy of the file is a regular file.
func (f *localFile) hasContent() bool {
	return f.mode&ModeType == ModeRegular || f.mode&ModeType == ModeSocket
}

// childOf returns the path of a name in the directory at a clean path.
func childOf(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// entry returns the file as the entry of a path of the context.
func (f placedFile) entry(p string) Entry {
	e := Entry{
		Path: p, Mode: f.mode, Mtime: time.Unix(0, f.mtime), Link: f.link(),
		Rdev: f.rdev, Inode: f.inode, Dev: f.dev, Nlink: f.nlink,
	}
	switch e.Type() {
	case ModeRegular:
		e.Size = f.size
	case ModeSocket:
		e.Mode = ModeRegular | 0o755
	}
	return e
}
