package planner_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// notes is a Memo in memory that counts what it was given: a recalled plan is not stored again.
type notes struct {
	plans  map[digest.Digest][]byte
	stored int
}

func (n *notes) Load(name digest.Digest) []byte { return n.plans[name] }

func (n *notes) Store(name digest.Digest, plan []byte) {
	n.stored++
	n.plans[name] = plan
}

func newNotes() *notes { return &notes{plans: map[digest.Digest][]byte{}} }

// TestRecallGolden: what the golden cases plan is the same graph when it is recalled.
func TestRecallGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	recalled := 0
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := readCase(t, archive, t.TempDir())
		opts, memo := options(), newNotes()
		want, err := planner.Plan(t.Context(), p, opts)
		if err != nil {
			continue
		}
		opts.Memo = memo
		for range 2 {
			got, err := planner.Plan(t.Context(), p, opts)
			if err != nil {
				t.Fatal(path, err)
			}
			same := cmp.Options{protocmp.Transform(), cmpopts.EquateEmpty()}
			if diff := cmp.Diff(want, got, same); diff != "" {
				t.Errorf("%s: another graph (-planned +recalled):\n%s", path, diff)
			}
		}
		if memo.stored == 1 {
			recalled++
		} else {
			t.Errorf("%s: stored %d times", path, memo.stored)
		}
	}
	if recalled < 10 {
		t.Errorf("only %d of %d cases were recalled", recalled, len(paths))
	}
}

// movedResolver has images that were rebuilt since.
type movedResolver struct{ fakeResolver }

func (m *movedResolver) ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	image, err := m.fakeResolver.ResolveImage(ctx, ref, p)
	image.Digest = digest.FromString("new " + ref)
	return image, err
}

// TestRecallChanged: whatever a plan is made of, it is made again when that changes.
func TestRecallChanged(t *testing.T) {
	put := func(name, content string) func(*testing.T, *config.Project, *planner.Options) {
		return func(t *testing.T, p *config.Project, _ *planner.Options) {
			write(t, p.Dir, map[string]string{name: content})
		}
	}
	remove := func(name string) func(*testing.T, *config.Project, *planner.Options) {
		return func(t *testing.T, p *config.Project, _ *planner.Options) {
			if err := os.RemoveAll(filepath.Join(p.Dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := map[string]func(*testing.T, *config.Project, *planner.Options){
		"Dockerfile":            put("app/Dockerfile", "FROM golang:1.26\nRUN make other\n"),
		"bad Dockerfile":        put("app/Dockerfile", "FROM\n"),
		"no Dockerfile":         remove("app/Dockerfile"),
		"ignore file appears":   put("app/.dockerignore", "secret\n"),
		"ignore file beside it": put("app/Dockerfile.dockerignore", "secret\n"),
		"no context":            remove("lib"),
		"context becomes file": func(t *testing.T, p *config.Project, o *planner.Options) {
			remove("lib")(t, p, o)
			put("lib", "")(t, p, o)
		},
		"base moves": func(_ *testing.T, _ *config.Project, o *planner.Options) { o.Resolver = &movedResolver{} },
		"no-cache":   func(_ *testing.T, _ *config.Project, o *planner.Options) { o.NoCache = true },
		"platform":   func(_ *testing.T, _ *config.Project, o *planner.Options) { o.Platform.Architecture = "arm64" },
		"argument": func(_ *testing.T, p *config.Project, _ *planner.Options) {
			p.Targets["app"].Args = map[string]string{"A": "2"}
		},
		"tag": func(_ *testing.T, p *config.Project, _ *planner.Options) {
			p.Targets["app"].Tags = []string{"acme/app:2"}
		},
		"frozen without a pin": func(_ *testing.T, _ *config.Project, o *planner.Options) { o.Lock, o.Frozen = &config.Lock{}, true },
		"pinned": func(_ *testing.T, _ *config.Project, o *planner.Options) {
			o.Lock = &config.Lock{Images: map[string]config.ImagePin{"docker.io/library/golang:1.26": {Digest: digest.FromString("pin")}}}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{
				"app/Dockerfile": "FROM golang:1.26\nARG A\nCOPY --from=lib . /lib\nCOPY . /app\nRUN make $A\n", "app/main.go": "", "lib/a": "",
			})
			p := project(dir, &config.Target{Name: "app", Context: "app", Contexts: map[string]string{"lib": "lib"}, Tags: []string{"acme/app"}})
			opts, memo := options(), newNotes()
			opts.Memo = memo
			before := text(t, p, opts)
			change(t, p, &opts)
			got := text(t, p, opts)
			opts.Memo = nil
			want := text(t, p, opts)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("an old plan was used (-planned +got):\n%s", diff)
			}
			if before == want {
				t.Error("the change changes nothing")
			}
		})
	}
}

// linkView names directories without links, as a view of a revision does.
type linkView struct{ config.Disk }

// Folder implements config.View.
func (linkView) Folder(path string) (string, error) { return filepath.EvalSymlinks(path) }

// TestRecallLink has a context that is a link which leads elsewhere later on: the plan of whoever follows it names where it led.
func TestRecallLink(t *testing.T) {
	for name, view := range map[string]config.View{"the same view": linkView{}, "the disk": config.Disk{}} {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, map[string]string{"one/Dockerfile": "FROM scratch\nCOPY f /\n", "two/Dockerfile": "FROM scratch\nCOPY f /\n"})
		link := filepath.Join(dir, "app")
		if err := os.Symlink("one", link); err != nil {
			t.Fatal(err)
		}
		p := project(dir, &config.Target{Name: "app", Context: "app"})
		opts := options()
		opts.Memo, opts.View = newNotes(), linkView{}
		locals := func() map[string]planner.Local {
			g, err := planner.Plan(t.Context(), p, opts)
			if err != nil {
				t.Fatal(err)
			}
			return g.Locals
		}
		locals()
		if err := errors.Join(os.Remove(link), os.Symlink("two", link)); err != nil {
			t.Fatal(err)
		}
		opts.View = view
		got := locals()
		opts.Memo = nil
		if diff := cmp.Diff(locals(), got); diff != "" {
			t.Errorf("%s: an old plan was used (-planned +got):\n%s", name, diff)
		}
	}
}

// TestRecallDamaged: a memo that is not one is no plan.
func TestRecallDamaged(t *testing.T) {
	p := monorepo(t, t.TempDir(), 2)
	opts, memo := options(), newNotes()
	opts.Memo = memo
	want := text(t, p, opts)
	for name, plan := range memo.plans {
		for _, raw := range [][]byte{nil, {}, []byte("no plan"), plan[:len(plan)/2]} {
			memo.plans[name] = raw
			if diff := cmp.Diff(want, text(t, p, opts)); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestRecallPassword: a plan with a password of a URL in it is not kept.
func TestRecallPassword(t *testing.T) {
	for _, url := range []string{"https://ci:a-secret@example.com/x.tar", "https://ci:a-secret@example.com/x.git"} {
		dockerfile := "FROM scratch\nADD " + url + " /d/\n"
		opts, memo := options(), newNotes()
		opts.Memo = memo
		if got := text(t, project(t.TempDir(), &config.Target{Name: "a", DockerfileInline: &dockerfile}), opts); strings.HasPrefix(got, "error") {
			t.Fatal(got)
		}
		if memo.stored != 0 {
			t.Errorf("that of %s was kept", url)
		}
	}
}

// BenchmarkRecall is a plan of which nothing changed: its time is that of its inputs.
func BenchmarkRecall(b *testing.B) {
	for _, services := range []int{50, 200} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			p := monorepo(b, b.TempDir(), services)
			opts, memo := options(), newNotes()
			opts.Memo = memo
			b.ReportAllocs()
			for b.Loop() {
				if _, err := planner.Plan(b.Context(), p, opts); err != nil {
					b.Fatal(err)
				}
			}
			if memo.stored != 1 {
				b.Fatalf("planned %d times", memo.stored)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*services), "µs/target")
		})
	}
}
