package cache

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// The file of times is timesMagic and records of timeSize bytes, sorted by hash: the hash of a name, seconds, and the
// number of the write that brought it. It is advice, so that nothing but its shape is checked.
const (
	timesMagic = "bake-times 1\n"
	timeSize   = 16
	maxTimes   = 1 << 16 // records; the oldest go first
)

// Times says how long things took when they were done last, by whatever names its callers give them.
type Times struct{ records []byte }

// Times reads what is known. Nothing is known when the file is missing or damaged.
func (s *Store) Times() Times {
	raw, err := readBounded(s.path(fileTimes), int64(len(timesMagic)+maxTimes*timeSize))
	if err != nil || len(raw) < len(timesMagic) || string(raw[:len(timesMagic)]) != timesMagic {
		return Times{}
	}
	records := raw[len(timesMagic):]
	return Times{records[:len(records)/timeSize*timeSize]}
}

// Of is the time under the first of names that is known, 0 when none is.
func (t Times) Of(names ...string) time.Duration {
	for _, name := range names {
		hash := hashOf(name)
		n := len(t.records) / timeSize
		i := sort.Search(n, func(i int) bool { return t.at(i).hash >= hash })
		if i < n && t.at(i).hash == hash {
			return t.at(i).time()
		}
	}
	return 0
}

// AddTimes remembers what things took, in place of what was known of the same names.
func (s *Store) AddTimes(took map[string]time.Duration) error {
	if len(took) == 0 {
		return nil
	}
	path := s.path(fileTimes)
	lock, err := lockFile(s.path(dirLocks, "times"), unix.LOCK_EX)
	if err != nil {
		return wrap("lock", path, err)
	}
	defer lock.Close()
	all := map[uint64]timeRecord{}
	write := uint32(0)
	old := s.Times()
	for i := range len(old.records) / timeSize {
		r := old.at(i)
		all[r.hash] = r
		write = max(write, r.write)
	}
	for name, d := range took {
		hash := hashOf(name)
		all[hash] = timeRecord{hash, float32(d.Seconds()), write + 1}
	}
	return wrap("write", path, s.writeFile(path, encodeTimes(all)))
}

// encodeTimes makes the file, of the newest records.
func encodeTimes(all map[uint64]timeRecord) []byte {
	list := make([]timeRecord, 0, len(all))
	for _, r := range all {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b timeRecord) int { return cmp.Or(cmp.Compare(b.write, a.write), cmp.Compare(a.hash, b.hash)) })
	list = list[:min(len(list), maxTimes)]
	slices.SortFunc(list, func(a, b timeRecord) int { return cmp.Compare(a.hash, b.hash) })
	raw := []byte(timesMagic)
	for _, r := range list {
		raw = binary.LittleEndian.AppendUint64(raw, r.hash)
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(r.seconds))
		raw = binary.LittleEndian.AppendUint32(raw, r.write)
	}
	return raw
}

type timeRecord struct {
	hash    uint64
	seconds float32
	write   uint32
}

func (t Times) at(i int) timeRecord {
	raw := t.records[i*timeSize:][:timeSize]
	return timeRecord{
		binary.LittleEndian.Uint64(raw), math.Float32frombits(binary.LittleEndian.Uint32(raw[8:])), binary.LittleEndian.Uint32(raw[12:]),
	}
}

// maxTime bounds what a damaged record can say.
const maxTime = 7 * 24 * time.Hour

func (r timeRecord) time() time.Duration {
	if s := float64(r.seconds); s > 0 && s < maxTime.Seconds() {
		return time.Duration(s * float64(time.Second))
	}
	return 0
}

func hashOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
