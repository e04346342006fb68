package cache

import (
	"errors"
	"io"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// TestPutBlob checks that a blob is read once, that a wrong one is refused, and that nothing remains of a failure.
func TestPutBlob(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const content = "a blob"
	d, opened := digest.FromString(content), 0
	open := func() (io.ReadCloser, error) {
		opened++
		return io.NopCloser(strings.NewReader(content)), nil
	}
	for range 2 {
		if err := s.PutBlob(d, int64(len(content)), open); err != nil {
			t.Fatal(err)
		}
	}
	if opened != 1 || !s.HasBlob(d, int64(len(content))) {
		t.Errorf("got %d reads, want 1 and the blob in the store", opened)
	}
	other := digest.FromString("another")
	if err := s.PutBlob(other, 7, open); !errors.Is(err, ErrMismatch) || s.HasBlob(other, -1) {
		t.Errorf("got %v for other bytes, want ErrMismatch and no blob", err)
	}
	broken := errors.New("broken")
	_, _, err = s.WriteBlob(func(w io.Writer) (digest.Digest, int64, error) {
		_, _ = io.WriteString(w, "half")
		return "", -1, broken
	})
	if !errors.Is(err, broken) || s.HasBlob(digest.FromString("half"), -1) {
		t.Errorf("got %v, want the error of write and no blob", err)
	}
}
