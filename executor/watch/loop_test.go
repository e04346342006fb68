package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/affected"
	"github.com/bakebuild/bake/planner"
)

// fakeProject has one target with one build context, and reports what Run tells it.
type fakeProject struct {
	dir     string // of the context; "" for none
	plan    func() // called by Plan; may be nil
	changed chan []string
	waiting chan bool
	ended   chan error
}

// startFake runs a project until the test ends, and returns when it waits for changes.
func startFake(t *testing.T, o Options, p *fakeProject) {
	t.Helper()
	p.changed, p.waiting, p.ended = make(chan []string, 100), make(chan bool, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { p.ended <- Run(ctx, o, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-p.ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	p.wait(t)
}

func (p *fakeProject) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.waiting:
	case err := <-p.ended:
		p.ended <- err
		t.Fatalf("Run ended with %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not wait for changes")
	}
}

// expect waits for a round that a path started, and for its end.
func (p *fakeProject) expect(t *testing.T, path string) {
	t.Helper()
	for {
		select {
		case paths := <-p.changed:
			p.wait(t)
			if slices.Contains(paths, path) {
				return
			}
		case err := <-p.ended:
			p.ended <- err
			t.Fatalf("Run ended with %v", err)
		case <-time.After(10 * time.Second):
			t.Fatalf("a change of %s starts no round", path)
		}
	}
}

// quiet fails if a round starts.
func (p *fakeProject) quiet(t *testing.T) {
	t.Helper()
	select {
	case paths := <-p.changed:
		t.Fatalf("%q started a round", paths)
	case <-time.After(3 * quietTime):
	}
}

// Plan implements Project.
func (p *fakeProject) Plan(context.Context) (Plan, error) {
	if p.plan != nil {
		p.plan()
	}
	g := &planner.Graph{Locals: map[string]planner.Local{".": {Dir: p.dir}}}
	if p.dir != "" {
		g.Steps = []*planner.Step{{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{
			Identifier: planner.LocalPrefix + ".",
			Attrs:      map[string]string{pb.AttrExcludePatterns: `["[", "ignored"]`},
		}}}}}
	}
	return Plan{
		Project: &config.Project{}, Graph: g,
		Targets: affected.Targets{Names: []string{"a"}, Fingerprints: map[string]digest.Digest{"a": "x"}},
	}, nil
}

// Build implements Project.
func (p *fakeProject) Build(context.Context, Plan, []string) error { return nil }

// Changed implements Project.
func (p *fakeProject) Changed(c Change) { p.changed <- c.Paths }

// Failed implements Project.
func (p *fakeProject) Failed(context.Context, error) {}

// Waiting implements Project.
func (p *fakeProject) Waiting(int) { p.waiting <- true }

// realTemp returns a temporary directory without links on the way to it: events have such paths.
func realTemp(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRemovedContext removes a build context and creates it again: Run continues, although its ignore patterns are
// invalid too.
func TestRemovedContext(t *testing.T) {
	dir := realTemp(t)
	ctx := filepath.Join(dir, "deep", "ctx")
	writeFile(t, filepath.Join(ctx, "f"), "x")
	p := &fakeProject{dir: ctx}
	startFake(t, Options{Dir: dir}, p)
	if err := os.RemoveAll(filepath.Join(dir, "deep")); err != nil {
		t.Fatal(err)
	}
	p.expect(t, ctx)
	writeFile(t, filepath.Join(ctx, "f"), "x")
	p.expect(t, filepath.Join(dir, "deep"))
	writeFile(t, filepath.Join(ctx, "f"), "y")
	p.expect(t, filepath.Join(ctx, "f"))
}

// TestMissingFolder creates the folders above a project file, one after the other, and then the file.
func TestMissingFolder(t *testing.T) {
	dir := realTemp(t)
	p := &fakeProject{}
	startFake(t, Options{Dir: dir, Files: []string{"a/b/bake.hcl"}}, p)
	for _, name := range []string{"a", "a/b"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		p.expect(t, filepath.Join(dir, name))
	}
	writeFile(t, filepath.Join(dir, "a/b/bake.hcl"), "x")
	p.expect(t, filepath.Join(dir, "a/b/bake.hcl"))
}

// TestFileFromTheFuture: a file whose time is in the future does not start one round after another.
func TestFileFromTheFuture(t *testing.T) {
	dir := realTemp(t)
	file := filepath.Join(dir, "bake.hcl")
	writeFile(t, file, "x")
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(file, future, future); err != nil {
		t.Fatal(err)
	}
	p := &fakeProject{}
	startFake(t, Options{Dir: dir, Files: []string{"bake.hcl"}}, p)
	p.quiet(t)
}

// TestChangesWhilePlanning changes files while they are read, before they are watched: each change starts a round.
func TestChangesWhilePlanning(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"deleted": os.Remove,
		"replaced by an older file": func(file string) error {
			old := time.Now().Add(-time.Hour)
			return errors.Join(os.Chtimes(file+".old", old, old), os.Rename(file+".old", file))
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			dir := realTemp(t)
			file := filepath.Join(dir, "bake.hcl")
			writeFile(t, file, "x")
			writeFile(t, file+".old", "y")
			done := false
			p := &fakeProject{plan: func() {
				if !done {
					if err := change(file); err != nil {
						t.Error(err)
					}
				}
				done = true
			}}
			startFake(t, Options{Dir: dir, Files: []string{"bake.hcl"}}, p)
			p.expect(t, file)
			p.quiet(t)
		})
	}
}
