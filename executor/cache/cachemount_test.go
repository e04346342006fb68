package cache

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestCacheMounts(t *testing.T) {
	s := open(t, t.TempDir())
	first, err := s.CacheMount(t.Context(), "id", "shared", nil)
	if err != nil || !first.New {
		t.Fatalf("first: %+v, %v", first, err)
	}
	if err := first.Filled(); err != nil {
		t.Fatal(err)
	}
	second, err := s.CacheMount(t.Context(), "id", "shared", nil)
	if err != nil || second.New || second.Dir != first.Dir {
		t.Fatalf("second: %+v, %v", second, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.CacheMount(ctx, "id", "locked", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked while shared: %v", err)
	}
	private, err := s.CacheMount(t.Context(), "id", "private", nil)
	if err != nil || private.Dir == first.Dir {
		t.Errorf("private: %+v, %v", private, err)
	}
	for _, m := range []*Mount{first, second, private} {
		m.Release()
	}
	locked, err := s.CacheMount(t.Context(), "id", "locked", nil)
	if err != nil || locked.Dir != first.Dir || locked.New {
		t.Fatalf("locked: %+v, %v", locked, err)
	}
	locked.Release()
}
