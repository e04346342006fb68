package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// racyFor is how old a change must be for a file's times to tell its content: an edit within the granularity of the
// clock leaves them as they are.
const racyFor = 2 * time.Second

// maxStatIndex bounds the file of an index, in bytes.
const maxStatIndex = 1 << 30

// statKey names a file whatever its path.
type statKey struct{ Dev, Inode uint64 }

// statValue is what the digest was computed of. Times are nanoseconds.
type statValue struct {
	Size, Mtime, Ctime int64
	Sum                [32]byte
}

// StatIndex remembers content digests of files by what lstat says of them. It only saves time: a damaged or missing
// file is an empty index, and the last of two processes that save wins.
type StatIndex struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	known   map[statKey]statValue
	used    map[statKey]bool
	changed bool
}

// OpenStatIndex reads the index in a file.
func OpenStatIndex(path string) (*StatIndex, error) {
	x := &StatIndex{path: path, now: time.Now, known: map[statKey]statValue{}, used: map[statKey]bool{}}
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

// The file is a magic line and records of 72 bytes: key, size, times and digest, then the digest of it all.
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
	x.known = make(map[statKey]statValue, len(body)/statRecord)
	for ; len(body) > 0; body = body[statRecord:] {
		n := func(i int) uint64 { return binary.LittleEndian.Uint64(body[8*i:]) }
		x.known[statKey{n(0), n(1)}] = statValue{
			Size: int64(n(2)), Mtime: int64(n(3)), Ctime: int64(n(4)), Sum: [32]byte(body[40:statRecord]),
		}
	}
}

// Save writes the index back when something was learnt, with the files that were asked for and nothing else.
func (x *StatIndex) Save() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.changed {
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
	x.changed = false
	return nil
}

func (x *StatIndex) encode() []byte {
	keys := make([]statKey, 0, len(x.used))
	for k := range x.used {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		return keys[i].Dev < keys[j].Dev || keys[i].Dev == keys[j].Dev && keys[i].Inode < keys[j].Inode
	})
	raw := make([]byte, 0, len(statMagic)+len(keys)*statRecord+32)
	raw = append(raw, statMagic...)
	for _, k := range keys {
		v := x.known[k]
		for _, n := range []uint64{k.Dev, k.Inode, uint64(v.Size), uint64(v.Mtime), uint64(v.Ctime)} {
			raw = binary.LittleEndian.AppendUint64(raw, n)
		}
		raw = append(raw, v.Sum[:]...)
	}
	return append(raw, sumOf(raw[len(statMagic):])...)
}

// get returns the digest of a file that was hashed with the same size and times.
func (x *StatIndex) get(st *unix.Stat_t) (digest.Digest, bool) {
	k, v := statOf(st)
	x.mu.Lock()
	defer x.mu.Unlock()
	known, ok := x.known[k]
	if !ok || known.Size != v.Size || known.Mtime != v.Mtime || known.Ctime != v.Ctime {
		return "", false
	}
	x.used[k] = true
	return digestOfSum(known.Sum), true
}

// put remembers the digest of a file unless it changed too recently for its times to tell. st is of before it was read.
func (x *StatIndex) put(st *unix.Stat_t, d digest.Digest) {
	k, v := statOf(st)
	limit := x.now().Add(-racyFor).UnixNano()
	if v.Mtime >= limit || v.Ctime >= limit {
		return
	}
	sum, ok := sumOfDigest(d)
	if !ok {
		return
	}
	v.Sum = sum
	x.mu.Lock()
	defer x.mu.Unlock()
	x.known[k], x.used[k], x.changed = v, true, true
}

func statOf(st *unix.Stat_t) (statKey, statValue) {
	return statKey{uint64(st.Dev), st.Ino}, statValue{Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
}
