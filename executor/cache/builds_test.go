package cache

import (
	"fmt"
	"os"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// TestBuildsAreBounded checks that the newest hundred builds are kept, with the logs of their time and of this
// process.
func TestBuildsAreBounded(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	stale := s.path(dirLogs, Stamp(now.Add(-time.Hour))+"-a-1.log")
	if err := os.WriteFile(stale, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := s.NewLog(digest.FromString("a"))
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	for i := range maxBuilds + 3 {
		name := Stamp(now.Add(time.Duration(i)*time.Second)) + "-a"
		if err := s.PutBuild(name, []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	names, err := s.Builds()
	if err != nil || len(names) != maxBuilds {
		t.Fatalf("%d builds, %v", len(names), err)
	}
	if raw, err := s.Build(names[0]); err != nil || string(raw) != fmt.Sprint(maxBuilds+2) {
		t.Errorf("the newest is %s, %v", raw, err)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("the old log is still there: %v", err)
	}
	if _, err := os.Stat(log.Name()); err != nil {
		t.Errorf("the log of a process that runs is gone: %v", err)
	}
	for _, bad := range []string{"", "../oci/oci-layout", "nothing"} {
		if f, err := s.OpenLog(bad); err == nil {
			f.Close()
			t.Errorf("log %q was opened", bad)
		}
	}
}
