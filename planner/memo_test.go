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

// memoryMemo is a Memo in memory that counts calls of Store. A plan that was loaded is not stored again.
type memoryMemo struct {
	plans  map[digest.Digest][]byte
	stored int
}

func (m *memoryMemo) Load(name digest.Digest) []byte { return m.plans[name] }

func (m *memoryMemo) Store(name digest.Digest, plan []byte) {
	m.stored++
	m.plans[name] = plan
}

func newMemo() *memoryMemo { return &memoryMemo{plans: map[digest.Digest][]byte{}} }

// TestMemoGolden checks that the stored plans of the golden cases give the same graphs as planning.
func TestMemoGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := readCase(t, archive, t.TempDir())
		opts, memo := options(), newMemo()
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
				t.Errorf("%s: graph differs (-planned +loaded):\n%s", path, diff)
			}
		}
		if memo.stored == 1 {
			loaded++
		} else {
			t.Errorf("%s: stored %d times", path, memo.stored)
		}
	}
	if loaded < 10 {
		t.Errorf("only %d of %d cases were loaded", loaded, len(paths))
	}
}

// movedResolver resolves every reference to a different digest than fakeResolver.
type movedResolver struct{ fakeResolver }

func (m *movedResolver) ResolveImage(ctx context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage,
	error) {
	image, err := m.fakeResolver.ResolveImage(ctx, ref, p)
	image.Digest = digest.FromString("new " + ref)
	return image, err
}

// change changes an input of a plan.
type change func(*testing.T, *config.Project, *planner.Options)

func put(name, content string) change {
	return func(t *testing.T, p *config.Project, _ *planner.Options) {
		write(t, p.Dir, map[string]string{name: content})
	}
}

func remove(name string) change {
	return func(t *testing.T, p *config.Project, _ *planner.Options) {
		if err := os.RemoveAll(filepath.Join(p.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMemoChanged changes one input of a stored plan at a time and checks that the plan is computed again.
func TestMemoChanged(t *testing.T) {
	cases := map[string]change{
		"Dockerfile":              put("app/Dockerfile", "FROM golang:1.26\nRUN make other\n"),
		"bad Dockerfile":          put("app/Dockerfile", "FROM\n"),
		"no Dockerfile":           remove("app/Dockerfile"),
		"ignore file":             put("app/.dockerignore", "secret\n"),
		"Dockerfile.dockerignore": put("app/Dockerfile.dockerignore", "secret\n"),
		"no context":              remove("lib"),
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
		"frozen without a pin": func(_ *testing.T, _ *config.Project, o *planner.Options) {
			o.Lock,
				o.Frozen = &config.Lock{}, true
		},
		"pinned": func(_ *testing.T, _ *config.Project, o *planner.Options) {
			pin := config.ImagePin{Digest: digest.FromString("pin")}
			o.Lock = &config.Lock{Images: map[string]config.ImagePin{"docker.io/library/golang:1.26": pin}}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{
				"app/Dockerfile": "FROM golang:1.26\nARG A\nCOPY --from=lib . /lib\nCOPY . /app\nRUN make $A\n",
				"app/main.go":    "", "lib/a": "",
			})
			p := project(dir, &config.Target{Name: "app", Context: "app", Contexts: map[string]string{"lib": "lib"},
				Tags: []string{"acme/app"}})
			opts := options()
			opts.Memo = newMemo()
			before := text(t, p, opts)
			change(t, p, &opts)
			got := text(t, p, opts)
			opts.Memo = nil
			want := text(t, p, opts)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("a stale plan was used (-planned +got):\n%s", diff)
			}
			if before == want {
				t.Error("the change has no effect on the plan")
			}
		})
	}
}

// linkView resolves symbolic links in directory names, like the view of a git revision.
type linkView struct{ config.Disk }

// Folder implements config.View.
func (linkView) Folder(path string) (string, error) { return filepath.EvalSymlinks(path) }

// TestMemoLink changes the target of a context that is a symbolic link. A plan of a view that resolves links contains
// the old target and must not be used.
func TestMemoLink(t *testing.T) {
	for name, view := range map[string]config.View{"the same view": linkView{}, "the disk": config.Disk{}} {
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, map[string]string{"one/Dockerfile": "FROM scratch\nCOPY f /\n",
			"two/Dockerfile": "FROM scratch\nCOPY f /\n"})
		link := filepath.Join(dir, "app")
		if err := os.Symlink("one", link); err != nil {
			t.Fatal(err)
		}
		p := project(dir, &config.Target{Name: "app", Context: "app"})
		opts := options()
		opts.Memo, opts.View = newMemo(), linkView{}
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
			t.Errorf("%s: a stale plan was used (-planned +got):\n%s", name, diff)
		}
	}
}

// TestMemoDamaged checks that damaged memos are ignored.
func TestMemoDamaged(t *testing.T) {
	p := monorepo(t, t.TempDir(), 2)
	opts, memo := options(), newMemo()
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

// TestMemoPassword checks that a plan containing the password of a URL is not stored.
func TestMemoPassword(t *testing.T) {
	for _, url := range []string{"https://ci:a-secret@example.com/x.tar", "https://ci:a-secret@example.com/x.git"} {
		dockerfile := "FROM scratch\nADD " + url + " /d/\n"
		opts, memo := options(), newMemo()
		opts.Memo = memo
		p := project(t.TempDir(), &config.Target{Name: "a", DockerfileInline: &dockerfile})
		if got := text(t, p, opts); strings.HasPrefix(got, "error") {
			t.Fatal(got)
		}
		if memo.stored != 0 {
			t.Errorf("the plan of %s was stored", url)
		}
	}
}

// BenchmarkMemo measures loading an unchanged plan, which is the time to check its inputs.
func BenchmarkMemo(b *testing.B) {
	for _, services := range []int{50, 200} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			p := monorepo(b, b.TempDir(), services)
			opts, memo := options(), newMemo()
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
