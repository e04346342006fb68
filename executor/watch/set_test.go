package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestSet: of a large context, only the folders are watched in which a file that is read can change.
func TestSet(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("services/s%d/src/main.go", i)), "x")
		writeFile(t, filepath.Join(dir, fmt.Sprintf("services/s%d/node_modules/m/index.js", i)), "x")
	}
	reads := []string{"services/s1", "services/s2/src/main.go", "go.mod", "lib/new"}
	part := newContext(dir, []string{"**/node_modules"}, reads)
	s := set{files: map[string]bool{filepath.Join(dir, "bake.hcl"): true}, contexts: []buildContext{part}}
	folders, err := s.folders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", "services", "services/s1", "services/s1/src", "services/s2", "services/s2/src"} {
		if at := filepath.Join(dir, want); !folders[at] {
			t.Errorf("%s is not watched", at)
		}
		delete(folders, filepath.Join(dir, want))
	}
	if len(folders) > 0 {
		t.Errorf("also watched: %v", folders)
	}
	for path, want := range map[string]bool{
		"bake.hcl": true, "services/s1/src/new.go": true, "services/s1/node_modules/m/index.js": false,
		"services/s3/src/main.go": false, "services/s2/src/main.go": true, "services/s2/src/other.go": false,
		"go.mod": true, "go.sum": false, "lib": true, "lib/new/x": true,
	} {
		if got := s.concerns(filepath.Join(dir, path)); got != want {
			t.Errorf("%s: concerns the build: %t", path, got)
		}
	}
}

// TestLinks: the links on the way to a file are watched in addition to the file, as are links inside a context.
func TestLinks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, at("real/Dockerfile"), "x")
	writeFile(t, at("ctx/target/f"), "x")
	links := map[string]string{"one": "two", "two": "real", "ctx/link": "/target", "loop": "loop"}
	for name, to := range links {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSet([]string{at("one/Dockerfile"), at("loop/f"), at("gone/f")}, nil)
	for _, name := range []string{"one", "two", "real/Dockerfile", "loop", "gone/f"} {
		if !s.files[at(name)] {
			t.Errorf("%s is not watched", name)
		}
	}
	if s.files[at("one/Dockerfile")] {
		t.Error("a path through a link is watched: its events have another path")
	}
	c := newContext(at("ctx"), nil, []string{"link/*.txt"})
	for name, want := range map[string]bool{"ctx/link": true, "ctx/target/f": true, "ctx/other": false} {
		if got := c.concerns(at(name)); got != want {
			t.Errorf("%s: concerns the build: got %t, want %t", name, got, want)
		}
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}
