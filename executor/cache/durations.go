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

// The file "times" holds durationsMagic, then records of durationSize bytes sorted by hash: the hash of a name,
// seconds, and the number of the write that added the record. Durations only guide scheduling and estimates, so the
// file has no checksum; its size and magic are checked.
const (
	durationsMagic = "bake-times 1\n"
	durationSize   = 16
	maxDurations   = 1 << 16 // records; the oldest are dropped first
)

// Durations holds how long actions took when they last ran, by names that the callers choose.
type Durations struct{ records []byte }

// Durations reads the recorded durations. They are empty if the file is missing or damaged.
func (s *Store) Durations() Durations {
	raw, err := readBounded(s.path(fileDurations), int64(len(durationsMagic)+maxDurations*durationSize))
	if err != nil || len(raw) < len(durationsMagic) || string(raw[:len(durationsMagic)]) != durationsMagic {
		return Durations{}
	}
	records := raw[len(durationsMagic):]
	return Durations{records[:len(records)/durationSize*durationSize]}
}

// Of returns the duration of the first of the names that is recorded, or 0.
func (t Durations) Of(names ...string) time.Duration {
	for _, name := range names {
		hash := hashOf(name)
		n := len(t.records) / durationSize
		i := sort.Search(n, func(i int) bool { return t.at(i).hash >= hash })
		if i < n && t.at(i).hash == hash {
			return t.at(i).time()
		}
	}
	return 0
}

// AddDurations records durations and replaces earlier ones of the same names.
func (s *Store) AddDurations(took map[string]time.Duration) error {
	if len(took) == 0 {
		return nil
	}
	path := s.path(fileDurations)
	lock, err := lockFile(s.path(dirLocks, "times"), unix.LOCK_EX)
	if err != nil {
		return wrap("lock", path, err)
	}
	defer lock.Close()
	all := map[uint64]durationRecord{}
	write := uint32(0)
	old := s.Durations()
	for i := range len(old.records) / durationSize {
		r := old.at(i)
		all[r.hash] = r
		write = max(write, r.write)
	}
	for name, d := range took {
		hash := hashOf(name)
		all[hash] = durationRecord{hash, float32(d.Seconds()), write + 1}
	}
	return wrap("write", path, s.writeFile(path, encodeDurations(all)))
}

// encodeDurations returns the bytes of the file, with the newest records.
func encodeDurations(all map[uint64]durationRecord) []byte {
	list := make([]durationRecord, 0, len(all))
	for _, r := range all {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b durationRecord) int {
		return cmp.Or(cmp.Compare(b.write, a.write), cmp.Compare(a.hash, b.hash))
	})
	list = list[:min(len(list), maxDurations)]
	slices.SortFunc(list, func(a, b durationRecord) int { return cmp.Compare(a.hash, b.hash) })
	raw := []byte(durationsMagic)
	for _, r := range list {
		raw = binary.LittleEndian.AppendUint64(raw, r.hash)
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(r.seconds))
		raw = binary.LittleEndian.AppendUint32(raw, r.write)
	}
	return raw
}

type durationRecord struct {
	hash    uint64
	seconds float32
	write   uint32
}

func (t Durations) at(i int) durationRecord {
	raw := t.records[i*durationSize:][:durationSize]
	return durationRecord{
		hash:    binary.LittleEndian.Uint64(raw),
		seconds: math.Float32frombits(binary.LittleEndian.Uint32(raw[8:])),
		write:   binary.LittleEndian.Uint32(raw[12:]),
	}
}

// maxDuration bounds durations: a longer one can only come from a damaged record.
const maxDuration = 7 * 24 * time.Hour

func (r durationRecord) time() time.Duration {
	if s := float64(r.seconds); s > 0 && s < maxDuration.Seconds() {
		return time.Duration(s * float64(time.Second))
	}
	return 0
}

func hashOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
