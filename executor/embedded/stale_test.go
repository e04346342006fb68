package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// TestOvertakenStep: once another step has had the context read again, what a step that was keyed before reads is not
// what it is keyed by, so it keeps nothing under that key.
func TestOvertakenStep(t *testing.T) {
	for name, step := range map[string]string{
		"a copy":             "COPY a.txt /b.txt",
		"a bind mount":       "RUN --mount=type=bind,source=a.txt,target=/in [\"copy\", \"/in\", \"/b.txt\"]",
		"a bound folder":     "RUN --mount=type=bind,source=.,target=/in [\"copy\", \"/in/a.txt\", \"/b.txt\"]",
		"all of the context": "COPY . /\nRUN [\"copy\", \"/a.txt\", \"/b.txt\"]",
	} {
		for _, when := range []string{"keyed", "prepared"} {
			t.Run(name+" "+when, func(t *testing.T) {
				s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\n" + step + "\n", "a.txt": "one"})
				b := s.begin()
				local := b.nodes[0].local
				var reader *node
				for _, n := range b.nodes[1:] {
					if len(n.inputs) > 0 && n.inputs[len(n.inputs)-1].local() {
						reader = n
					}
				}
				change := func() {
					s.write(map[string]string{"a.txt": "two"})
					err := local.Read(t.Context(), func(tree.FS) error { return tree.ErrChanged })
					if !errors.Is(err, tree.ErrChanged) {
						t.Fatal(err)
					}
				}
				if found, err := reader.op.lookup(t.Context()); err != nil || found {
					t.Fatal(found, err)
				}
				if when == "keyed" {
					change()
				}
				found, release, err := reader.op.prepare(t.Context())
				if err == nil && !found {
					change()
					err = reader.op.run(t.Context())
					release()
				}
				if !errors.Is(err, schedule.ErrStale) {
					t.Errorf("the step was not overtaken: %t, %v", found, err)
				}
				s.write(map[string]string{"a.txt": "one"})
				if _, _, err := s.run(); err != nil {
					t.Fatal(err)
				}
				if got := s.file("api", "/b.txt"); got != "one" {
					t.Errorf("b.txt is %q", got)
				}
			})
		}
	}
}

// TestVanishedFile: a file that goes away while the context is read is not there when that is done again, and no reason
// to fail.
func TestVanishedFile(t *testing.T) {
	for name, vanish := range map[string]func(string) error{
		"gone":            os.Remove,
		"a folder now":    func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) },
		"with its folder": func(p string) error { return os.RemoveAll(filepath.Dir(p)) },
	} {
		for _, when := range []string{"listed", "keyed"} {
			t.Run(name+", "+when, func(t *testing.T) {
				s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "a.txt": "one",
					"tmp/gone.txt": "x"})
				b := s.begin()
				reader, local := b.nodes[1].op, b.nodes[0].local
				err := local.Read(t.Context(), func(files tree.FS) error {
					_, err := files.ReadDir("/tmp")
					return err
				})
				if err == nil && when == "keyed" {
					_, err = reader.lookup(t.Context())
				}
				err = errors.Join(err, vanish(s.dir+"/tmp/gone.txt"))
				if err != nil {
					t.Fatal(err)
				}
				if when == "listed" {
					_, err = reader.lookup(t.Context())
				} else if _, release, prepared := reader.prepare(t.Context()); prepared == nil {
					err = reader.run(t.Context())
					release()
				}
				if !errors.Is(err, schedule.ErrStale) {
					t.Errorf("got %v", err)
				}
				if found, err := reader.lookup(t.Context()); err != nil || found {
					t.Errorf("looked up again: %t, %v", found, err)
				}
				if _, _, err := s.run(); err != nil {
					t.Fatal(err)
				}
				if got := s.file("api", "/a.txt"); got != "one" {
					t.Errorf("a.txt is %q", got)
				}
			})
		}
	}
}
