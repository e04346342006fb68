package embedded

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/tree"
)

// TestExplain changes one thing after the other, and asks of the step that runs first why.
func TestExplain(t *testing.T) {
	const file = "FROM scratch AS made\nCOPY lib /lib\nFROM scratch\nARG V=1\nARG MY_TOKEN=a\nCOPY a.txt dir " +
		"/in/\nWORKDIR /w\nRUN [\"copy\", \"/in/a.txt\", \"/b.txt\"]\nCOPY --from=made /lib /lib\n"
	start := map[string]string{"Dockerfile": file, "a.txt": "one", "dir/x": "x", "lib/y": "y"}
	for name, c := range map[string]struct {
		write  map[string]string
		change func(t *testing.T, dir string)
		want   []string // of the first step that runs
	}{
		"a file":   {write: map[string]string{"a.txt": "two"}, want: []string{"files changed: a.txt"}},
		"new file": {write: map[string]string{"dir/z": "z"}, want: []string{"files changed: dir/z (added)"}},
		"removed": {change: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "lib/y")); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"files changed: lib/y (removed)"}},
		"mode": {change: func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "lib/y"), 0o711); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"files changed: lib/y (mode 0644 → 0711)"}},
		"argument": {write: map[string]string{"Dockerfile": strings.Replace(file, "V=1", "V=2", 1)},
			want: []string{"the variable V changed: 1 → 2"}},
		"secret": {write: map[string]string{"Dockerfile": strings.Replace(file, "TOKEN=a", "TOKEN=b", 1)},
			want: []string{"the variable MY_TOKEN changed"}},
		"command": {
			write: map[string]string{"Dockerfile": strings.Replace(file, `"/b.txt"`, `"/c.txt"`, 1)},
			want: []string{`the instruction Dockerfile:8 changed: ` +
				`RUN ["copy", "/in/a.txt", "/b.txt"] → RUN ["copy", "/in/a.txt", "/c.txt"]`},
		},
		"user": {write: map[string]string{"Dockerfile": strings.Replace(file, "RUN", "USER 5\nRUN", 1)},
			want: []string{"the user is new: 5"}},
		"a COPY": {
			write: map[string]string{"Dockerfile": strings.Replace(file, "COPY lib /lib\n",
				"COPY --chmod=700 lib /lib\n", 1)},
			want: []string{"the instruction Dockerfile:2 changed: COPY lib /lib → COPY --chmod=700 lib /lib"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := firstCauses(t, start, func(s *site) {
				s.write(c.write)
				if c.change != nil {
					c.change(t, s.dir)
				}
			})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("causes (-want +got):\n%s", diff)
			}
		})
	}
}

// firstCauses builds files, changes them, builds again and returns the causes of the first step that runs.
func firstCauses(t *testing.T, files map[string]string, change func(*site)) []string {
	t.Helper()
	s := newSite(t, files)
	for path := range files {
		if err := os.Chmod(filepath.Join(s.dir, path), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.run(); err != nil {
		t.Fatal(err)
	}
	change(s)
	_, report, err := s.run()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range report.Steps {
		if r.Status == executor.StatusRan && len(got) == 0 {
			for _, cause := range r.Causes {
				got = append(got, cause.String())
			}
		}
	}
	return got
}

// TestExplainMount gives a command a cache mount, for which the frontend names the only stage of the file.
func TestExplainMount(t *testing.T) {
	const command = `["copy", "/in/a.txt", "/b.txt"]`
	s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /in/\nRUN " + command + "\n",
		"a.txt": "one"})
	if _, _, err := s.run(); err != nil {
		t.Fatal(err)
	}
	s.write(map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /in/\nRUN --mount=type=cache,target=/c " +
		command + "\n"})
	preview, err := s.engine.Preview(t.Context(), s.graph(), executor.Options{Dir: s.dir})
	if err != nil {
		t.Fatal(err)
	}
	got := preview[len(preview)-1].Causes
	if len(got) == 0 || got[0].Kind != executor.CauseInstruction && got[0].Kind != executor.CauseOption {
		t.Errorf("the causes are %v, wanted what changed", got)
	}
}

// TestExplainLink adds a flag that gives a copy another parent, while a file changes too.
func TestExplainLink(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nWORKDIR /w\nCOPY a.txt /in/\n", "a.txt": "one"})
	if _, _, err := s.run(); err != nil {
		t.Fatal(err)
	}
	s.write(map[string]string{"Dockerfile": "FROM scratch\nWORKDIR /w\nCOPY --link a.txt /in/\n", "a.txt": "two"})
	_, report, err := s.run()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range report.Steps {
		for _, cause := range r.Causes {
			if cause.Own() {
				got = append(got, cause.String())
			}
		}
	}
	want := []string{"the instruction Dockerfile:3 changed: COPY a.txt /in/ → COPY --link a.txt /in/",
		"files changed: a.txt"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
}

// TestExplainBase puts another image below a copy, which need not run for that, and a command on it.
func TestExplainBase(t *testing.T) {
	for _, instruction := range []string{"WORKDIR /in\nCOPY a.txt dir /in/", "COPY --link a.txt dir /in/",
		"RUN [\"copy\", \"/etc/passwd\", \"/x\"]\nCOPY a.txt /in/"} {
		t.Run(instruction, func(t *testing.T) {
			s := newSite(t, map[string]string{"step": "x", "a.txt": "one", "dir/x": "x"})
			file := func(ref, last string) {
				s.write(map[string]string{"Dockerfile": "FROM " + ref + "\n" + instruction + "\n" + last})
			}
			run := func() *executor.Report {
				_, report, err := s.run()
				if err != nil {
					t.Fatal(err)
				}
				return report
			}
			h := s.serve(nil)
			const last = "RUN [\"copy\", \"/in/a.txt\", \"/b.txt\"]\n"
			file(h.ref, last)
			run()
			other := s.connect(s.image([][]tar.Header{{reg("more", "x")}}))
			file(other.ref, "")
			run()
			file(other.ref, last)
			preview, err := s.engine.Preview(t.Context(), s.graph(), executor.Options{Dir: s.dir})
			if err != nil {
				t.Fatal(err)
			}
			for what, steps := range map[string][]executor.StepResult{"preview": preview, "build": run().Steps} {
				causes := steps[len(steps)-1].Causes
				if len(causes) != 1 || causes[0].Kind != executor.CauseBase ||
					!strings.Contains(causes[0].Old, h.ref+"@sha256:") ||
					!strings.Contains(causes[0].New, other.ref+"@sha256:") {
					t.Errorf("%s: the causes are %v, wanted the base alone", what, causes)
				}
			}
		})
	}
}

func TestListing(t *testing.T) {
	var list tree.Listing
	for _, path := range []string{"a", "a/b", "a/bc", "b", "ü\xff"} {
		list = append(list, tree.ListedFile{Path: path, Mode: 0o100644, Sum: uint64(len(path)) << 60})
	}
	raw, err := list.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.DecodeListing(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list, got); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}
	for i := range raw {
		_, _ = tree.DecodeListing(raw[:i]) // damaged: an error or less, never a panic
	}
}
