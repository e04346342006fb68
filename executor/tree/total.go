package tree

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"path"
	"slices"
)

// total identifies all files of one directory, without those of its subdirectories.
type total struct {
	sum   [sha256.Size]byte
	links []linked // files that have other names somewhere
}

// linked is one name of a file that has several.
type linked struct {
	id   FileID
	name string
}

// record is one file as a copy writes it.
type record struct {
	name    string // "" for the root of a match
	entry   Entry  // without its path and times
	implied bool   // as in Selected
	content []byte // the digest of a regular file's content
	attrs   map[string][]byte
}

// recorder hashes length-prefixed fields, so that no two lists of files give the same bytes.
type recorder struct {
	hash hash.Hash
	buf  []byte // fields that are not hashed yet
}

func newRecorder() *recorder { return &recorder{hash: sha256.New()} }

func (r *recorder) text(fields ...string) {
	const full = 4096
	for _, f := range fields {
		r.buf = binary.AppendUvarint(r.buf, uint64(len(f)))
		r.buf = append(r.buf, f...)
	}
	if len(r.buf) >= full {
		r.write()
	}
}

func (r *recorder) file(f *record) {
	e := &f.entry
	r.text(f.name)
	implied := uint64(0)
	if f.implied {
		implied = 1
	}
	for _, n := range [...]uint64{
		uint64(e.Mode), uint64(e.UID), uint64(e.GID), e.Rdev * deviceBit(e), implied, uint64(len(f.content)),
	} {
		r.buf = binary.AppendUvarint(r.buf, n)
	}
	r.buf = append(r.buf, f.content...)
	r.text(e.Link)
	r.buf = binary.AppendUvarint(r.buf, uint64(len(f.attrs)))
	if len(f.attrs) == 0 {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(f.attrs)) {
		r.text(name, string(f.attrs[name]))
	}
}

func (r *recorder) write() {
	r.hash.Write(r.buf)
	r.buf = r.buf[:0]
}

// sum returns the digest of everything so far.
func (r *recorder) sum() (sum [sha256.Size]byte) {
	r.write()
	r.hash.Sum(sum[:0])
	return sum
}

// appendLinked adds a regular file if it may have other names.
func appendLinked(links []linked, r *record) []linked {
	if id, ok := r.entry.HardLinked(); ok && r.entry.IsRegular() {
		return append(links, linked{id, r.name})
	}
	return links
}

// linkNames lists the names of hard-linked files in a selection. Further names of a file may be outside of it.
type linkNames []linked

func (l *linkNames) add(dir string, links []linked) {
	for _, one := range links {
		*l = append(*l, linked{one.id, path.Join(dir, one.name)})
	}
}

// write records, for each further name of a hard-linked file, that name and the first one.
func (l linkNames) write(r *recorder) {
	slices.SortFunc(l, func(a, b linked) int { return cmp.Or(a.id.compare(b.id), cmp.Compare(a.name, b.name)) })
	var same [][2]string
	for i, first := 1, 0; i < len(l); i++ {
		if l[i].id != l[first].id {
			first = i
			continue
		}
		same = append(same, [2]string{l[i].name, l[first].name})
	}
	slices.SortFunc(same, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	for _, names := range same {
		r.text("link", names[0], names[1])
	}
}

// deviceBit returns 1 for devices, whose Rdev counts.
func deviceBit(e *Entry) uint64 {
	if e.Type() == ModeChar || e.Type() == ModeBlock {
		return 1
	}
	return 0
}

// totals calls show with the total of each directory below p and then of p, in post-order.
func (l *Local) totals(ctx context.Context, p string, show func(rel string, t *total)) error {
	top, err := l.dir(p)
	if err != nil {
		return err
	}
	l.preload(ctx, p, func(p string, d *localDir) { _, _ = l.totalOf(ctx, p, d) }) // errors return below
	return l.showTotals(ctx, dirAt{p, "", top}, show)
}

// dirAt is a directory with its path in the context and in the selection.
type dirAt struct {
	path, rel string
	dir       *localDir
}

func (l *Local) showTotals(ctx context.Context, at dirAt, show func(rel string, t *total)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.enter(at.path, at.dir); err != nil {
		return err
	}
	for i := range at.dir.files {
		below, name := at.dir.file(i).directory(), at.dir.name(i)
		if below == nil {
			continue
		}
		if err := l.showTotals(ctx, dirAt{childOf(at.path, name), path.Join(at.rel, name), below}, show); err != nil {
			return err
		}
	}
	t, err := l.totalOf(ctx, at.path, at.dir)
	if err != nil {
		return err
	}
	show(at.rel, t)
	return nil
}

// recorder returns a free recorder, or a new one.
func (l *Local) recorder() *recorder {
	if r, ok := l.recorders.Get().(*recorder); ok {
		r.hash.Reset()
		return r
	}
	return newRecorder()
}

// totalOf returns the total of a directory that was read. It is computed once.
func (l *Local) totalOf(ctx context.Context, p string, d *localDir) (*total, error) {
	d.totalling.Lock()
	defer d.totalling.Unlock()
	if d.total != nil {
		return d.total, nil
	}
	if err := l.hashAll(ctx, p, d); err != nil {
		return nil, err
	}
	t := &total{}
	files := l.recorder()
	defer l.recorders.Put(files)
	for i := range d.files {
		f := d.file(i)
		r := record{name: f.name(), entry: f.entry("")}
		if f.hasContent() {
			r.content = f.sum[:]
		}
		files.file(&r)
		t.links = appendLinked(t.links, &r)
	}
	t.sum = files.sum()
	d.total = t
	return t, nil
}

// hashAll computes the digests of a directory's files that are not known, several at a time.
func (l *Local) hashAll(ctx context.Context, p string, d *localDir) error {
	var unknown []placedFile
	for i := range d.files {
		f := d.file(i)
		if f.hasContent() && !f.known {
			unknown = append(unknown, f)
		}
	}
	return spread(ctx, len(unknown), func(ctx context.Context, i int) error {
		_, err := l.sum(ctx, childOf(p, unknown[i].name()), unknown[i].localFile)
		return err
	})
}
