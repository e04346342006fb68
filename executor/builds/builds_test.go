package builds

import (
	"errors"
	"testing"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
)

// TestHistory records two builds and reads them back: a finished one, and one that still runs.
func TestHistory(t *testing.T) {
	s, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	warn := func(err error) { t.Error(err) }
	var bad *Error
	if _, err := Read(s, ""); !errors.As(err, &bad) {
		t.Errorf("got %v from an empty history, want an Error", err)
	}
	first := Record(s, Options{Facts: report.Facts{Dir: "/project", Targets: []string{"one"}}, Warn: warn})
	done := first.Finish(errors.New("broken"), false)
	second := Record(s, Options{Facts: report.Facts{Dir: "/project", Targets: []string{"two"}}, Warn: warn})
	list, err := List(s)
	if err != nil || len(list) != 2 {
		t.Fatalf("got %d builds and %v, want 2", len(list), err)
	}
	for id, want := range map[string]report.Status{done.ID: report.Failed, second.Facts.ID: report.Running} {
		run, err := Read(s, id[len(id)-6:])
		if err != nil || run.ID != id || run.Status != want {
			t.Errorf("got build %s, %s, %v; want %s, %s", run.ID, run.Status, err, id, want)
		}
	}
	for _, name := range []string{"2", "nothing"} {
		if _, err := Read(s, name); !errors.As(err, &bad) {
			t.Errorf("got %v for the name %q, want an Error", err, name)
		}
	}
	if _, err := Steps(done, []string{"nothing"}); !errors.As(err, &bad) {
		t.Errorf("got %v for an unknown step, want an Error", err)
	}
}
