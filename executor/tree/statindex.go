package tree

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"
)

// racyFor is how old the last change of a file must be before its times identify its content: two edits within the
// granularity of the clock leave equal times.
const racyFor = 2 * time.Second

// maxStatIndex bounds the file of an index, in bytes.
const maxStatIndex = 1 << 30

// statValue is the file that a digest was computed of. Times are in nanoseconds.
type statValue struct {
	size, mtime, ctime int64
	sum                [32]byte
}

// StatIndex stores content digests of files by their lstat attributes. It only saves time: a damaged or missing file
// is an empty index, and the last of two processes that save wins. The records stay encoded in memory and are searched
// there, so that an index takes no more memory than its file.
type StatIndex struct {
	path string
	now  func() time.Time

	mu    sync.Mutex
	known []byte // records of the file, sorted by key
	used  []bool // by record: whether a file was found in it
	// unsaved holds the records of this run. Those with a size of -1 describe no file.
	unsaved map[FileID]statValue
}

// OpenStatIndex reads the index in a file. It is empty if the file is missing, damaged or not a regular file.
func OpenStatIndex(path string) (*StatIndex, error) {
	x := &StatIndex{path: path, now: time.Now, unsaved: map[FileID]statValue{}}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return x, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStatIndex || !info.Mode().IsRegular() {
		return x, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	x.decode(raw)
	return x, nil
}

// The file is a magic line and records of 72 bytes, sorted: key, size, times and digest, then the
// SHA-256 of the records.
const (
	statMagic  = "bake stat index 1\n"
	statRecord = 5*8 + 32
)

func (x *StatIndex) decode(raw []byte) {
	body, ok := bytes.CutPrefix(raw, []byte(statMagic))
	if !ok || len(body) < 32 || (len(body)-32)%statRecord != 0 {
		return
	}
	body, sum := body[:len(body)-32], body[len(body)-32:]
	if !bytes.Equal(sumOf(body), sum) {
		return
	}
	x.known, x.used = body, make([]bool, len(body)/statRecord)
}

// key returns the key of record i of the file.
func (x *StatIndex) key(i int) FileID { return FileID{x.number(i, 0), x.number(i, 1)} }

func (x *StatIndex) value(i int) statValue {
	sum := [32]byte(x.known[i*statRecord+40 : (i+1)*statRecord])
	return statValue{int64(x.number(i, 2)), int64(x.number(i, 3)), int64(x.number(i, 4)), sum}
}

func (x *StatIndex) number(i, field int) uint64 {
	return binary.LittleEndian.Uint64(x.known[i*statRecord+8*field:])
}

func (k FileID) compare(o FileID) int {
	return cmp.Or(cmp.Compare(k.Dev, o.Dev), cmp.Compare(k.Inode, o.Inode))
}

// find returns the index of a key's record in the file, or where it would be inserted.
func (x *StatIndex) find(k FileID) (int, bool) {
	return sort.Find(len(x.used), func(i int) int { return k.compare(x.key(i)) })
}

// Save writes the index back if it has new digests. It drops the files that this run did not look up.
func (x *StatIndex) Save() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.unsaved) == 0 {
		return nil
	}
	raw := x.encode()
	tmp, err := os.CreateTemp(filepath.Dir(x.path), ".stat-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		if err = os.Rename(tmp.Name(), x.path); errors.Is(err, os.ErrExist) { // a directory: see OpenStatIndex
			err = errors.Join(os.RemoveAll(x.path), os.Rename(tmp.Name(), x.path))
		}
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	x.decode(raw)
	for i := range x.used {
		x.used[i] = true
	}
	clear(x.unsaved)
	return nil
}

func (x *StatIndex) encode() []byte {
	all := x.unsaved
	for i, used := range x.used {
		if _, again := all[x.key(i)]; used && !again {
			all[x.key(i)] = x.value(i)
		}
	}
	raw := make([]byte, 0, len(statMagic)+len(all)*statRecord+32)
	raw = append(raw, statMagic...)
	for _, k := range slices.SortedFunc(maps.Keys(all), FileID.compare) {
		v := all[k]
		for _, n := range []uint64{k.Dev, k.Inode, uint64(v.size), uint64(v.mtime), uint64(v.ctime)} {
			raw = binary.LittleEndian.AppendUint64(raw, n)
		}
		raw = append(raw, v.sum[:]...)
	}
	return append(raw, sumOf(raw[len(statMagic):])...)
}

// fill sets the digests of a directory's regular files whose records have the same size and times.
func (x *StatIndex) fill(files []localFile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	next := 0
	for i := range files {
		f := &files[i]
		if f.mode&ModeType != ModeRegular || f.patched || f.inode == 0 {
			continue
		}
		v, ok := x.unsaved[FileID{f.dev, f.inode}]
		if !ok {
			if next, ok = x.near(next, FileID{f.dev, f.inode}); !ok {
				continue
			}
			v = x.value(next)
			x.used[next] = x.used[next] || v.describes(f)
		}
		if v.describes(f) {
			f.sum, f.hashed, f.known = v.sum, true, true
		}
	}
}

// forget drops the digest of a file.
func (x *StatIndex) forget(f *localFile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unsaved[FileID{f.dev, f.inode}] = statValue{size: -1}
}

// near is find, but tries the record after the last one first: files of one directory are often created one after
// another.
func (x *StatIndex) near(last int, k FileID) (int, bool) {
	if last+1 < len(x.used) && x.key(last+1) == k {
		return last + 1, true
	}
	return x.find(k)
}

// describes reports whether the digest is that of a file, by its size and times.
func (v statValue) describes(f *localFile) bool {
	return v.size == f.size && v.mtime == f.mtime && v.ctime == f.ctime
}

// put stores the digest of a file unless the file changed less than racyFor before since: its times could not
// distinguish two edits. f holds the attributes read before the content, at or after since.
func (x *StatIndex) put(f *localFile, sum [32]byte, since time.Time) {
	limit := since.Add(-racyFor).UnixNano()
	if f.inode == 0 || f.mtime >= limit || f.ctime >= limit {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unsaved[FileID{f.dev, f.inode}] = statValue{f.size, f.mtime, f.ctime, sum}
}
