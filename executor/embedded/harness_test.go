package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// fakeRunner stands for the sandbox: it interprets a few commands on the directories of a spec, so that keys, entries
// and scheduling are tested without a namespace.
type fakeRunner struct {
	mu   sync.Mutex
	ran  []string
	uids []uint32 // of whom the commands ran as
	hold func(ctx context.Context, args []string) error
	// next, when not nil, runs the commands for real, after they were noted.
	next Runner
}

// Run knows: write PATH TEXT, count PATH (a number that rises with every run), copy FROM TO, print TEXT, fail CODE.
func (f *fakeRunner) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	f.mu.Lock()
	f.ran, f.uids = append(f.ran, strings.Join(spec.Args, " ")), append(f.uids, spec.UID)
	count := len(f.ran)
	f.mu.Unlock()
	if f.hold != nil {
		if err := f.hold(ctx, spec.Args); err != nil {
			return sandbox.Result{}, err
		}
	}
	if f.next != nil {
		return f.next.Run(ctx, spec)
	}
	write := func(path, text string) error {
		path = filepath.Join(spec.Root.Upper, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(text), 0o644)
	}
	switch spec.Args[0] {
	case "write":
		return sandbox.Result{}, write(spec.Args[1], spec.Args[2])
	case "count":
		return sandbox.Result{}, write(spec.Args[1], strconv.Itoa(count))
	case "copy":
		text, err := f.read(spec, spec.Args[1])
		if err != nil {
			return sandbox.Result{}, err
		}
		return sandbox.Result{}, write(spec.Args[2], text)
	case "print":
		fmt.Fprintln(spec.Stdout, spec.Args[1])
		return sandbox.Result{}, nil
	case "fail":
		fmt.Fprintln(spec.Stdout, "about to fail")
		fmt.Fprintln(spec.Stderr, "it failed")
		code, err := strconv.Atoi(spec.Args[1])
		return sandbox.Result{ExitCode: code}, err
	}
	return sandbox.Result{ExitCode: 127}, nil
}

// read finds a file in the mounts, the last first, then in the layers.
func (f *fakeRunner) read(spec sandbox.Spec, path string) (string, error) {
	for _, m := range slices.Backward(spec.Mounts) {
		rest, ok := strings.CutPrefix(path, m.Dest)
		if !ok {
			continue
		}
		from := []string{m.Source}
		if m.Overlay != nil {
			from = m.Overlay.Lower
		}
		if m.Content != nil {
			return string(m.Content), nil
		}
		return readFirst(from, rest)
	}
	return readFirst(spec.Root.Lower, path)
}

func readFirst(dirs []string, path string) (string, error) {
	for _, d := range dirs {
		text, err := os.ReadFile(filepath.Join(d, path))
		if err == nil {
			return string(text), nil
		}
	}
	return "", fmt.Errorf("%s: %w", path, os.ErrNotExist)
}

// newRuns returns the commands that ran since the last call, sorted.
func (f *fakeRunner) newRuns() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.ran
	f.ran = nil
	slices.Sort(list)
	return list
}

// site is a project directory with a cache and an engine.
type site struct {
	t      testing.TB
	dir    string
	store  *cache.Store
	runner *fakeRunner
	engine *Engine
	// client fetches bases, and resolver looks them up; both are nil where every stage stands on scratch.
	client   *registry.Client
	resolver planner.Resolver
	// options of the next run
	opts    executor.Options
	targets []*config.Target
}

// newSite makes a project of the files, whose target "api" builds Dockerfile. The cache is new.
func newSite(t testing.TB, files map[string]string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), runner: &fakeRunner{}}
	s.write(files)
	s.targets = []*config.Target{{Name: "api", Outputs: []config.Attrs{{"type": "cacheonly"}}}}
	s.newCache()
	return s
}

// newCache starts with an empty cache.
func (s *site) newCache() {
	s.t.Helper()
	store, err := cache.Open(s.t.TempDir())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = store.Close() })
	s.store = store
	s.engine = New(store, s.client, Options{Runner: s.runner})
}

// write puts files into the project.
func (s *site) write(files map[string]string) {
	s.t.Helper()
	for name, text := range files {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
}

// graph plans the targets.
func (s *site) graph() *planner.Graph {
	s.t.Helper()
	p := &config.Project{Dir: s.dir, Targets: map[string]*config.Target{}}
	for _, t := range s.targets {
		p.Targets[t.Name] = t
		p.Requested = append(p.Requested, t.Name)
	}
	g, err := planner.Plan(s.t.Context(), p, planner.Options{Resolver: s.resolver})
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// run builds and returns the commands that ran.
func (s *site) run() ([]string, *executor.Report, error) {
	s.t.Helper()
	s.opts.Dir = s.dir
	report, err := s.engine.Run(s.t.Context(), s.graph(), s.opts)
	return s.runner.newRuns(), report, err
}

// must builds, and fails the test when the build fails or runs other commands than those.
func (s *site) must(commands ...string) *executor.Report {
	s.t.Helper()
	before, err := s.engine.Preview(s.t.Context(), s.graph(), s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	ran, report, err := s.run()
	if err != nil {
		s.t.Fatal(err)
	}
	slices.Sort(commands)
	if !slices.Equal(ran, commands) {
		s.t.Errorf("ran %q, want %q", ran, commands)
		for _, r := range report.Steps {
			s.t.Logf("%s %s", r.Status, r.Reason)
		}
	}
	for i, r := range report.Steps {
		if r.Status == executor.StatusRan && before[i].Status == executor.StatusCached {
			s.t.Errorf("step %d: the preview said cached, and it ran", i)
		}
	}
	return report
}

// begin is a build of which no step was looked up yet.
func (s *site) begin() *build {
	s.t.Helper()
	g := s.graph()
	b, err := s.engine.newBuild(g, s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	b.ahead = b.packAhead(s.t.Context(), func(int) []packing { return nil })
	b.imports = s.engine.newImports(s.t.Context(), g, s.opts)
	s.t.Cleanup(b.imports.close)
	return b
}

// file reads a file of an image root, as the image shows it.
func (s *site) file(target, path string) string {
	s.t.Helper()
	b := s.begin()
	for i := range b.nodes {
		if found, err := b.Lookup(s.t.Context(), i); err != nil || !found {
			s.t.Fatalf("step %d: %t, %v", i, found, err)
		}
	}
	for _, image := range b.graph.Images {
		if image.Target != target {
			continue
		}
		c, err := b.of(image.Root).chain(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		dirs, err := b.dirs(s.t.Context(), c)
		if err != nil {
			s.t.Fatal(err)
		}
		text, err := readFirst(dirs, path)
		if err != nil {
			s.t.Fatal(err)
		}
		return text
	}
	s.t.Fatalf("no target %s", target)
	return ""
}
