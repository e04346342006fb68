package embedded

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/cache"
)

// TestFindShell: a shell that the step created in its root counts, one in another output does not.
func TestFindShell(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/sh"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for dest, want := range map[string]string{pb.RootMount: "/bin/sh", "/out": ""} {
		s := &execRoot{
			x:       &execStep{keyed: keyed{whole: []wholeInput{{}}}},
			outputs: []execOutput{{mount: &pb.Mount{Dest: dest}, draft: &cache.Draft{FS: dir}}},
		}
		if got := s.findShell(t.Context()); got != want {
			t.Errorf("output at %s: shell %q, want %q", dest, got, want)
		}
	}
}
