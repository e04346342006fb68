package embedded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/executor"
)

// TestVerify runs again what the cache has: steps with equal results are distinguished from others, and nothing is
// stored of it.
func TestVerify(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": `FROM scratch AS build
COPY a.txt /a.txt
RUN ["count", "/n"]
RUN ["copy", "/a.txt", "/b.txt"]
FROM scratch
COPY --from=build /b.txt /
RUN ["write", "/x", "1"]
`, "a.txt": "one",
	})
	commands := []string{"count /n", "copy /a.txt /b.txt", "write /x 1"}
	s.must(commands...)
	n := s.file("api", "/b.txt")
	layers := func() int {
		names, err := os.ReadDir(filepath.Join(s.store.Dir(), "layers"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := layers()
	want := map[string]string{
		"COPY a.txt /a.txt": "", `RUN ["count", "/n"]`: "", `RUN ["copy", "/a.txt", "/b.txt"]`: "",
		"COPY --from=build /b.txt /": "", `RUN ["write", "/x", "1"]`: "",
	}
	// The number that count writes is how many commands have run since they were last taken: again the same.
	if diff := cmp.Diff(want, verifyAll(s)); diff != "" {
		t.Error(diff)
	}
	// A file of the cache changes behind its back: what runs again makes the right one.
	err := filepath.WalkDir(filepath.Join(s.store.Dir(), "layers"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "x" {
			return os.WriteFile(path, []byte("2"), 0o644)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want[`RUN ["write", "/x", "1"]`] = "/x"
	if diff := cmp.Diff(want, verifyAll(s)); diff != "" {
		t.Error(diff)
	}
	if after := layers(); after != before {
		t.Errorf("%d layers, and %d before", after, before)
	}
	s.must()
	if got := s.file("api", "/b.txt"); got != n {
		t.Errorf("b.txt is %q", got)
	}
}

// verifyAll verifies three cached commands and returns, for each step, the paths that differ.
func verifyAll(s *site) map[string]string {
	s.t.Helper()
	s.opts.Verify = true
	defer func() { s.opts.Verify = false }()
	ran, report, err := s.run()
	if err != nil {
		s.t.Fatal(err)
	}
	if len(ran) != 3 {
		s.t.Errorf("ran %q", ran)
	}
	found := map[string]string{}
	for i, r := range report.Steps {
		name := s.graph().Steps[i].Name
		if !r.Verified {
			continue
		}
		found[name[strings.Index(name, "] ")+2:]] = strings.Join(r.Differs, " ")
		if r.Status != executor.StatusRan {
			s.t.Errorf("%s: %s", name, r.Status)
		}
	}
	return found
}

// TestVerifyTellsWhatIsNotReproducible: a command that writes another number at each run.
func TestVerifyTellsWhatIsNotReproducible(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nRUN [\"write\", \"/first\", \"1\"]\nRUN " +
		"[\"count\", \"/n\"]\nRUN [\"copy\", \"/n\", \"/m\"]\n"})
	s.must("write /first 1", "count /n", "copy /n /m")
	s.opts.Verify = true
	s.runner.ran = []string{"one more before"}
	_, report, err := s.run()
	if err != nil {
		t.Fatal(err)
	}
	var differs []string
	for _, r := range report.Steps {
		differs = append(differs, r.Differs...)
	}
	// The copy is made of what the cache has of the number, and is the same.
	if diff := cmp.Diff([]string{"/n"}, differs); diff != "" {
		t.Error(diff)
	}
}
