package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/moby/patternmatcher"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// ErrChanged is wrapped when a file of a build context is no more what it was when it was first looked at.
var ErrChanged = errors.New("the file changed while it was read")

// Local is a build context, read in place: a directory without what its ignore patterns exclude. Every owner is 0:0,
// there are no extended attributes, and a socket is an empty file, as in a context that BuildKit receives. Directories are
// read once, when they are first asked for; ignored ones never. It may be used by several goroutines. It keeps some 110 bytes
// for each file that it has seen, and its name.
type Local struct {
	root    *os.File
	ignore  *patternmatcher.PatternMatcher // nil when nothing is ignored
	negated []string                       // the patterns that start with "!", without it
	stat    *StatIndex
	opened  time.Time
	patch   Patch  // nil when the disk is what counts
	at      string // the directory as the patch names it
	top     localDir
	// hashing keeps a file from being hashed twice at once; files share a lock by inode.
	hashing [64]sync.Mutex
	// recorders are those that no directory's total is made with.
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
	total     *total // of the files, once it was asked for; guarded by totalling
}

// localFile is a visible name in a directory. There are many of them: it has no pointers, so that a collection of memory looks into none.
type localFile struct {
	at                 int    // of its name in the directory's text; the target of a link follows
	nameSize, linkSize uint32 // bytes
	below              int32  // of a directory, its place among those below, from 1
	// hashed and sum are guarded by hashing; known files have them from the start.
	hashed, known bool
	patched       bool     // it is of the patch, not on the disk
	sum           [32]byte // of the content, once that was hashed

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

// directory is what a directory holds; nil of another file.
func (f placedFile) directory() *localDir {
	if f.below == 0 {
		return nil
	}
	return f.in.below[f.below-1]
}

// OpenLocal opens the context in dir. excludes are ignore patterns as .dockerignore has them. stat may be nil.
func OpenLocal(_ context.Context, dir string, excludes []string, stat *StatIndex) (*Local, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return newLocal(root, excludes, stat)
}

func newLocal(root *os.File, excludes []string, stat *StatIndex) (_ *Local, err error) {
	l := &Local{root: root, stat: stat, opened: time.Now()}
	if stat != nil {
		l.opened = stat.now()
	}
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

// itself is the directory: whatever it is on the disk, everybody may read it. It has its time, since copies of it have.
func (l *Local) itself() (Entry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.root.Fd()), &st); err != nil {
		return Entry{}, &fs.PathError{Op: "stat", Path: "/", Err: err}
	}
	return Entry{Path: "/", Mode: unix.S_IFDIR | 0o755, Mtime: time.Unix(st.Mtim.Unix())}, nil
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
	if f.mode&unix.S_IFMT == unix.S_IFSOCK {
		return os.Open(os.DevNull)
	}
	r, err := OpenFileBeneath(l.root, p)
	return r, changedIf(err, p)
}

// Changed is the error that a regular file's content is not what its digest says. The stat index forgets what it knows of it: its
// times need not have changed, as when it is written through a mapping into memory.
func (l *Local) Changed(p string) error {
	p = Rooted(p)
	if f, err := l.file(p); err == nil && l.stat != nil {
		l.stat.forget(f.localFile)
	}
	return fmt.Errorf("%s: %w", p, ErrChanged)
}

var errNotRegular = errors.New("not a regular file")

func notExist(p string) error { return &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist} }

// changedIf says of an error about a file or directory that was there that it has gone, or become something else.
func changedIf(err error, p string) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotRegular) {
		return fmt.Errorf("%s: %w", p, ErrChanged) // to whoever asks, it is not missing
	}
	return err
}

// Xattrs implements FS: a context has none.
func (l *Local) Xattrs(string) (map[string][]byte, error) { return nil, nil }

// Digest implements FS. A file is read once, and not at all when the stat index knows it.
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

// sum is the digest of a file's content.
func (l *Local) sum(ctx context.Context, p string, f *localFile) (sum [32]byte, err error) {
	one := &l.hashing[f.inode%uint64(len(l.hashing))]
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

// dir finds a visible directory by its clean path, and reads it if that has not been done.
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

// preload reads a directory and all below it, several at a time, and shows each. What cannot be read is told when it is asked for.
func (l *Local) preload(ctx context.Context, p string, show func(p string, d *localDir)) {
	top, err := l.dir(p)
	if err != nil {
		return
	}
	var group errgroup.Group
	group.SetLimit(min(runtime.GOMAXPROCS(0), 8))
	var read func(p string, d *localDir) error
	read = func(p string, d *localDir) error {
		if ctx.Err() != nil || l.enter(p, d) != nil {
			return nil
		}
		for i := range d.files {
			below := d.file(i).directory()
			if below == nil {
				continue
			}
			child := childOf(p, d.name(i))
			if !group.TryGo(func() error { return read(child, below) }) {
				_ = read(child, below)
			}
		}
		show(p, d)
		return nil
	}
	_ = read(p, top)
	_ = group.Wait()
}

// enter reads a directory, once.
func (l *Local) enter(p string, d *localDir) error {
	d.once.Do(func() { d.err = l.read(p, d) })
	return d.err
}

func (l *Local) read(p string, d *localDir) error {
	changed := l.changed(p)
	fd, err := OpenBeneath(l.root, p, unix.O_RDONLY|unix.O_DIRECTORY)
	if l.patch != nil && errors.Is(err, fs.ErrNotExist) {
		return l.list(-1, p, d, nil, changed) // all of it is of the patch
	}
	if err != nil {
		return changedIf(err, p)
	}
	f := os.NewFile(uintptr(fd), p)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	return l.list(fd, p, d, names, changed)
}

// list fills a directory with the names that the disk has, other than the changed ones, and with those of the patch.
func (l *Local) list(fd int, p string, d *localDir, names []string, changed map[string]*Entry) error {
	if len(changed) > 0 {
		names = slices.DeleteFunc(names, func(name string) bool { _, other := changed[name]; return other })
		for name, e := range changed {
			if e != nil {
				names = append(names, name)
			}
		}
	}
	sort.Strings(names)
	r, size := reading{files: make([]localFile, 0, len(names))}, 0
	for _, name := range names {
		size += len(name)
	}
	r.text.Grow(size)
	for _, name := range names {
		if err := l.visible(onDisk{fd, p, name}, d.match, changed[name], &r); err != nil {
			return err
		}
	}
	if l.stat != nil {
		l.stat.fill(r.files)
	}
	d.files, d.text, d.below = r.files, r.text.String(), r.below
	return nil
}

// reading is what was found of a directory so far.
type reading struct {
	files []localFile
	text  strings.Builder
	below []*localDir
}

func (r *reading) add(name string, f foundFile) {
	f.at, f.nameSize, f.linkSize = r.text.Len(), uint32(len(name)), uint32(len(f.link))
	r.text.WriteString(name)
	r.text.WriteString(f.link)
	if f.dir != nil {
		r.below = append(r.below, f.dir)
		f.below = int32(len(r.below))
	}
	r.files = append(r.files, f.localFile)
}

// foundFile is a file that has no place yet.
type foundFile struct {
	localFile
	link string
	dir  *localDir // of a directory
}

// visible adds one name of a directory to what was found, unless it is ignored or has just vanished. It is looked at on the disk, unless
// the patch has it as changed.
func (l *Local) visible(at onDisk, above patternmatcher.MatchInfo, changed *Entry, r *reading) error {
	ignored, match, err := l.ignored(at, above)
	if err != nil || ignored && len(l.negated) == 0 {
		return err
	}
	var f foundFile
	if changed != nil {
		f = fileOf(changed)
	} else {
		f, err = at.stat()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.mode&unix.S_IFMT == unix.S_IFDIR {
		f.dir = &localDir{match: match}
	}
	if ignored {
		// An ignored directory is there if something below it is not ignored.
		p := at.path()
		if f.dir == nil || !l.mayHold(p) {
			return nil
		}
		if err := l.enter(p, f.dir); err != nil || len(f.dir.files) == 0 {
			return err
		}
	}
	r.add(at.name, f)
	return nil
}

func (l *Local) ignored(at onDisk, above patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo, error) {
	if l.ignore == nil {
		return false, patternmatcher.MatchInfo{}, nil
	}
	p := at.path()
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

// hasContent says that it is a regular file to a copy.
func (f *localFile) hasContent() bool {
	return f.mode&unix.S_IFMT == unix.S_IFREG || f.mode&unix.S_IFMT == unix.S_IFSOCK
}

// childOf is the path of a name in the directory at a clean path.
func childOf(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// entry is the file at a path as a context shows it.
func (f placedFile) entry(p string) Entry {
	e := Entry{
		Path: p, Mode: f.mode, Mtime: time.Unix(0, f.mtime), Link: f.link(), Rdev: f.rdev, Inode: f.inode, Dev: f.dev, Nlink: f.nlink,
	}
	switch e.Type() {
	case unix.S_IFREG:
		e.Size = f.size
	case unix.S_IFSOCK:
		e.Mode = unix.S_IFREG | 0o755
	}
	return e
}
