package remotecache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
)

// packedText compresses a text that is too long to hold.
func packedText(t *testing.T, write func(io.Writer)) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	write(z)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// repeat writes a text n times.
func repeat(w io.Writer, text string, n int) {
	block := strings.Repeat(text, 1000)
	for range n / 1000 {
		_, _ = io.WriteString(w, block)
	}
}

// TestIndexBombs: a few kilobytes that stand for gigabytes are refused, in little memory and time.
func TestIndexBombs(t *testing.T) {
	const many = 100_000_000
	for name, write := range map[string]func(io.Writer){
		"entries":  func(w io.Writer) { repeat(w, `{},`, many/3) },
		"nesting":  func(w io.Writer) { repeat(w, `[`, many) },
		"text":     func(w io.Writer) { _, _ = io.WriteString(w, `"`); repeat(w, `a`, many) },
		"parts":    func(w io.Writer) { _, _ = io.WriteString(w, `{"Inputs":[`); repeat(w, `{},`, many/3) },
		"spaces":   func(w io.Writer) { repeat(w, ` `, many) },
		"strings":  func(w io.Writer) { _, _ = io.WriteString(w, `{"Aliases":[`); repeat(w, `"",`, many/3) },
		"all good": func(w io.Writer) { repeat(w, goodEntry(t)+",", 400_000) },
	} {
		raw := packedText(t, func(w io.Writer) {
			_, _ = io.WriteString(w, `{"Version":1,"Entries":[`)
			write(w)
		})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		if _, err := NewCatalog(bytes.NewReader(raw), scratch(t)); err == nil {
			t.Errorf("%s: no error", name)
		}
		runtime.ReadMemStats(&after)
		took, used := time.Since(began), (after.TotalAlloc-before.TotalAlloc)>>20
		t.Logf("%s: %d bytes, %s, %d MB allocated", name, len(raw), took, used)
		if took > 5*time.Minute || used > 512 { // the race detector makes it ten times as slow
			t.Errorf("%s: %d bytes take %s and %d MB", name, len(raw), took, used)
		}
	}
}

// goodEntry is the text of a valid entry.
func goodEntry(t *testing.T) string {
	t.Helper()
	raw, err := sample("a").Index.encode()
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	err = Decompress(bytes.NewReader(raw), 1<<20, func(r io.Reader) (err error) {
		text, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), `"Entries":[`)
	entry, _, _ := strings.Cut(rest, `],"Layers"`)
	return entry
}

// TestCatalogMemory reads a large index in little memory. With 400,000 entries and layers, ten builds of 2,000 targets
// with 20 steps each, the peak is 114 MB.
func TestCatalogMemory(t *testing.T) {
	const count, limit = 60_000, 80 << 20
	r, w := io.Pipe()
	runtime.GC() // what earlier tests left is not counted
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() { w.CloseWithError(writeLarge(w, count)) }()
	ctx, stop := context.WithCancel(t.Context())
	peak := make(chan uint64)
	go func() {
		most := uint64(0)
		for ctx.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse+m.StackInuse-min(before.HeapInuse+before.StackInuse, m.HeapInuse+m.StackInuse))
			time.Sleep(20 * time.Millisecond)
		}
		peak <- most
	}()
	c, err := NewCatalog(r, scratch(t))
	stop()
	most := <-peak
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Logf("the peak is %d MB", most>>20)
	if most > limit {
		t.Errorf("the peak is %d MB", most>>20)
	}
	for _, i := range []int{0, 1, count / 2, count - 1} {
		e := largeEntry(i)
		if got := c.Entry(e.Aliases[0], anyEntry); got == nil || got.ID != e.ID {
			t.Errorf("entry %d: %v", i, got)
		}
		if l := c.Layer(numbered("layer", i)); l == nil || l.Blob == nil {
			t.Errorf("layer %d: %v", i, l)
		}
	}
}

func numbered(kind string, i int) digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, hashOf(kind+strconv.Itoa(i)))
}

func hashOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// largeEntry is an entry of the size of a usual one.
func largeEntry(i int) Entry {
	parts := []key.Part{
		{Name: "format", Digest: "1"}, {Name: "kind", Digest: "exec"},
		{Name: "command", Digest: numbered("command", i).String()},
		{Name: "parent", Digest: numbered("id", i-1).String()}, {Name: "cwd", Digest: "/"},
		{Name: "env PATH", Digest: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"},
	}
	return Entry{Entry: cache.Entry{
		ID: numbered("id", i), Key: key.Of(parts), Step: numbered("step", i),
		Name: fmt.Sprintf("[s%d 3/7] RUN make", i), Inputs: parts,
		Outputs: []cache.Output{{Parts: []cache.Part{{Input: 0}, {Layer: numbered("layer", i)}}}},
	}, Aliases: []digest.Digest{numbered("alias", i)}}
}

func writeLarge(to io.Writer, count int) error {
	z, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	w := &indexWriter{to: z}
	w.text(`{"Version":1,"Entries":[`)
	for i := range count {
		if i > 0 {
			w.text(",")
		}
		e := largeEntry(i)
		appendElement(w, &e)
	}
	w.text(`],"Layers":[`)
	for i := range count {
		if i > 0 {
			w.text(",")
		}
		blob := Blob{Digest: numbered("blob", i), Size: 1, MediaType: "application/vnd.oci.image.layer.v1.tar+gzip"}
		appendElement(w, &Layer{ID: numbered("layer", i), DiffID: numbered("diff", i), Encoding: "gzip, times kept",
			Blob: &blob, Paths: &blob})
	}
	w.text("]}")
	if w.err != nil {
		return w.err
	}
	return z.Close()
}
