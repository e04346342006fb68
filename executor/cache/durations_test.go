package cache

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	s := open(t, t.TempDir())
	if d := s.Durations().Of("a"); d != 0 {
		t.Errorf("an empty cache knows %s", d)
	}
	for _, took := range []map[string]time.Duration{
		{"a": time.Second, "b": 2 * time.Second}, {"a": 3 * time.Second}, nil,
	} {
		if err := s.AddDurations(took); err != nil {
			t.Fatal(err)
		}
	}
	times := s.Durations()
	for _, c := range []struct {
		names []string
		want  time.Duration
	}{
		{[]string{"a"}, 3 * time.Second}, {[]string{"b"}, 2 * time.Second}, {[]string{"c"}, 0}, {nil, 0},
		{[]string{"c", "b", "a"}, 2 * time.Second},
	} {
		if got := times.Of(c.names...); got != c.want {
			t.Errorf("%q took %s, want %s", c.names, got, c.want)
		}
	}
	for _, raw := range []string{"", "nothing of the kind", durationsMagic + "torn", durationsMagic +
		string(make([]byte, 3*durationSize+1))} {
		if err := os.WriteFile(s.path(fileDurations), []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := s.Durations().Of("a"); got != 0 {
			t.Errorf("a file of %q says %s", raw, got)
		}
	}
}

// TestDurationsAreBounded checks that the newest records stay.
func TestDurationsAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	for _, prefix := range []string{"old", "new"} {
		took := map[string]time.Duration{}
		for i := range maxDurations * 3 / 4 {
			took[fmt.Sprint(prefix, i)] = time.Second
		}
		if err := s.AddDurations(took); err != nil {
			t.Fatal(err)
		}
	}
	times := s.Durations()
	if n := len(times.records) / durationSize; n != maxDurations {
		t.Errorf("%d records are kept, want %d", n, maxDurations)
	}
	for i := range maxDurations * 3 / 4 {
		if times.Of(fmt.Sprint("new", i)) == 0 {
			t.Fatalf("new%d is missing", i)
		}
	}
}
