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
// is an empty index, and the last of two processes that save wins. What was read stays in the form of the file and is
// searched there, so that an index takes no more memory than its file.
type StatIndex struct {
	path string
	now  func() time.Time

	mu    sync.Mutex
	known []byte // records of the file, sorted by key
	used  []bool // the records of files that were found
	fresh map[FileID]statValue
}

// OpenStatIndex reads the index in a file.
func OpenStatIndex(path string) (*StatIndex, error) {
	x := &StatIndex{path: path, now: time.Now, fresh: map[FileID]statValue{}}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return x, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStatIndex {
		return x, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	x.decode(raw)
	return x, nil
}

// The file is a magic line and records of 72 bytes, sorted: key, size, times and digest, then the digest of it all.
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

// key and value are those of record i of the file.
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

// find gives the place of a key among the records of the file.
func (x *StatIndex) find(k FileID) (int, bool) {
	return sort.Find(len(x.used), func(i int) int { return k.compare(x.key(i)) })
}

// Save writes the index back if it has new digests. It drops the files that this run did not look up.
func (x *StatIndex) Save() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.fresh) == 0 {
		return nil
	}
	raw := x.encode()
	tmp, err := os.CreateTemp(filepath.Dir(x.path), ".stat-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), x.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	x.decode(raw)
	for i := range x.used {
		x.used[i] = true
	}
	clear(x.fresh)
	return nil
}

func (x *StatIndex) encode() []byte {
	all := x.fresh
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

// fill gives the regular files of a directory their sums, of those that were hashed with the same size and times.
func (x *StatIndex) fill(files []localFile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	next := 0
	for i := range files {
		f := &files[i]
		if f.mode&ModeType != ModeRegular || f.patched || f.inode == 0 {
			continue
		}
		v, ok := x.fresh[FileID{f.dev, f.inode}]
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

// forget makes what is known of a file describe none.
func (x *StatIndex) forget(f *localFile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fresh[FileID{f.dev, f.inode}] = statValue{size: -1}
}

// near finds a key as find does. It looks first behind the record found last: files of one directory are often made
// one after another.
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

// put remembers the digest of a file unless it had changed too recently for its times to tell. f is of before it was
// read, and of after since.
func (x *StatIndex) put(f *localFile, sum [32]byte, since time.Time) {
	limit := since.Add(-racyFor).UnixNano()
	if f.inode == 0 || f.mtime >= limit || f.ctime >= limit {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fresh[FileID{f.dev, f.inode}] = statValue{f.size, f.mtime, f.ctime, sum}
}
