package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// bomb returns a zstd stream that begins with head and goes on with that many times 128 KiB of zeros.
func bomb(head []byte, count int) []byte {
	block := func(kind, size int) []byte { // RFC 8878, 3.1.1.2
		v := size<<3 | kind<<1
		return []byte{byte(v), byte(v >> 8), byte(v >> 16)}
	}
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3} // a window of 1 MiB
	out = append(append(out, block(0, len(head))...), head...)
	for range count {
		out = append(append(out, block(1, 128<<10)...), 0)
	}
	return append(out, 1, 0, 0) // the last block, empty
}

// TestDiffID: the diff id is that of Unpack, and reading a bomb stops at the limits and with the context.
func TestDiffID(t *testing.T) {
	in := mkTar(t, dir("d"), reg("d/f", "text"), sym("l", "d/f"))
	_, want, err := unpack(t, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DiffID(t.Context(), bytes.NewReader(in), Limits{})
	if err != nil || got != want.DiffID {
		t.Errorf("%s, %v, want %s", got, err, want.DiffID)
	}
	for name, limits := range map[string]Limits{"entries": {Entries: 2}, "names": {Names: 5}, "content": {Content: 3}} {
		if _, err := DiffID(t.Context(), bytes.NewReader(in), limits); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := DiffID(t.Context(), bytes.NewReader(bomb(in, 1<<10)), Limits{}); err == nil {
		t.Error("128 MiB after the end of the tar are read")
	}

	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 64 << 30}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = DiffID(ctx, bytes.NewReader(bomb(head.Bytes(), 1<<19)), Limits{})
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 10*time.Second {
		t.Errorf("a cancelled read of 64 GiB of zeros took %s: %v", took, err)
	}
}
