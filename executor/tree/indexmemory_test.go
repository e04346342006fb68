package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestIndexMemory: paths that share long prefixes, and deep paths, take no more memory than the limit.
func TestIndexMemory(t *testing.T) {
	long := "/" + strings.Repeat("a", 250) + strings.Repeat("/"+strings.Repeat("b", 250), 15)
	encode := func(first string, count int, next func(i int) (same int, rest string)) []byte {
		b := binary.AppendUvarint([]byte(indexMagic), uint64(count+1))
		add := func(same int, rest string) {
			b = append(appendText(binary.AppendUvarint(b, uint64(same)), rest), markWhiteout)
		}
		add(0, first)
		for i := range count {
			same, rest := next(i)
			add(same, rest)
		}
		return b
	}
	for name, raw := range map[string][]byte{
		"prefixes": encode(long, 1_000_000, func(i int) (int, string) {
			if i == 0 {
				return len(long), "/0"
			}
			return len(long) + 1, fmt.Sprintf("0%08x", i)
		}),
		"depth": encode("/0", 1000, func(i int) (int, string) {
			return 1, fmt.Sprintf("1%08x", i) + strings.Repeat("/a", 2000)
		}),
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err := new(Index).Decode(bytes.NewReader(raw), 24<<20)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrIndexTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 128<<20 {
			t.Errorf("%s: %d bytes take %d MB", name, len(raw), used>>20)
		}
	}
}
