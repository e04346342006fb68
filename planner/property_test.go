package planner_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// monorepo writes a project of services with eight steps each: a shared base stage, a library from a named context, and
// two steps of their own.
func monorepo(t testing.TB, dir string, services int) *config.Project {
	t.Helper()
	files := map[string]string{"lib/a.c": "", "third/x": ""}
	p := &config.Project{Dir: dir, Targets: map[string]*config.Target{}}
	for i := range services {
		name := fmt.Sprintf("svc%03d", i)
		files[name+"/Dockerfile"] = strings.ReplaceAll(`FROM golang:1.26 AS base
RUN apk add git
COPY --from=lib . /lib

FROM base
WORKDIR /app
COPY NAME /app
RUN make NAME
LABEL service=NAME
CMD ["/app/NAME"]
`, "NAME", name)
		p.Targets[name] = &config.Target{
			Name: name, Dockerfile: name + "/Dockerfile", Contexts: map[string]string{"lib": "lib"},
			Labels: map[string]string{"build": name}, Tags: []string{"acme/" + name},
			Args: map[string]string{"UNUSED": name},
		}
		p.Requested = append(p.Requested, name)
	}
	write(t, dir, files)
	return p
}

// TestMonorepoMerges checks that the shared steps of many services are merged into one.
func TestMonorepoMerges(t *testing.T) {
	for _, services := range []int{1, 50} {
		resolver := &fakeResolver{}
		g, err := planner.Plan(t.Context(), monorepo(t, t.TempDir(), services),
			planner.Options{Resolver: resolver, Platform: amd64()})
		if err != nil {
			t.Fatal(err)
		}
		// Shared: the image, RUN, two contexts, COPY of the library, WORKDIR. Own: COPY and RUN.
		if want := 8 * services; g.Declared != want {
			t.Errorf("%d services declare %d steps, want %d", services, g.Declared, want)
		}
		if want := 6 + 2*services; len(g.Steps) != want {
			t.Errorf("%d services merge to %d steps, want %d", services, len(g.Steps), want)
		}
		if n := resolver.calls.Load(); n != 1 {
			t.Errorf("the base was resolved %d times", n)
		}
		if n := len(g.Steps[0].Targets); n != services {
			t.Errorf("the base is for %d targets, want %d", n, services)
		}
		checkGraph(t, g)
	}
}

// checkGraph checks the documented invariants of Graph and Step.
func checkGraph(t testing.TB, g *planner.Graph) {
	t.Helper()
	seen := map[*planner.Step]bool{}
	digests := map[string]bool{}
	for _, s := range g.Steps {
		if len(s.Inputs) != len(s.Op.Inputs) {
			t.Errorf("%s: %d inputs, its op has %d", s.Name, len(s.Inputs), len(s.Op.Inputs))
			continue
		}
		for i, in := range s.Inputs {
			if !seen[in.Step] {
				t.Errorf("%s: input %d comes later or is missing", s.Name, i)
			} else if got := s.Op.Inputs[i]; got.Digest != in.Step.Digest.String() || int(got.Index) != in.Index {
				t.Errorf("%s: input %d is %s, its op says %s", s.Name, i, in.Step.Digest, got.Digest)
			}
		}
		if digests[s.Digest.String()] {
			t.Errorf("%s: duplicate digest %s", s.Name, s.Digest)
		}
		if len(s.Targets) == 0 || s.Name == "" {
			t.Errorf("step %s has targets %q and name %q", s.Digest, s.Targets, s.Name)
		}
		if source := s.Op.GetSource(); source != nil {
			if name, ok := strings.CutPrefix(source.Identifier, "local://"); ok && g.Locals[name].Dir == "" {
				t.Errorf("context %s has no directory", name)
			}
		}
		seen[s], digests[s.Digest.String()] = true, true
	}
	for _, i := range g.Images {
		if i.Root.Step != nil && !seen[i.Root.Step] {
			t.Errorf("the root of %s is not in the graph", i.Target)
		}
	}
}

// TestSamePlan checks that a plan has the same bytes when repeated, in another directory, and for any number of jobs.
func TestSamePlan(t *testing.T) {
	first := text(t, monorepo(t, t.TempDir(), 20), options())
	for _, jobs := range []int{1, 2, 16} {
		opts := options()
		opts.Jobs = jobs
		p := monorepo(t, t.TempDir()+"/elsewhere", 20)
		for range 2 {
			if diff := cmp.Diff(first, text(t, p, opts)); diff != "" {
				t.Fatalf("plan differs with %d jobs (-first +this):\n%s", jobs, diff)
			}
		}
	}
}

// TestSameGolden checks that some golden cases give the same bytes each time, with one job.
func TestSameGolden(t *testing.T) {
	for _, name := range []string{"stages", "link", "link-platforms", "ignore", "mounts", "warnings"} {
		archive, err := txtar.ParseFile("testdata/" + name + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		p, want := readCase(t, archive, t.TempDir())
		opts := options()
		opts.Jobs = 1
		for range 5 {
			if diff := cmp.Diff(string(want.Data), text(t, p, opts)); diff != "" {
				t.Fatalf("%s: plan differs (-want +got):\n%s", name, diff)
			}
		}
	}
}

// TestProjectUnchanged checks that planning does not modify the project.
func TestProjectUnchanged(t *testing.T) {
	p, before := monorepo(t, t.TempDir(), 3), config.Project{}
	before = *p
	before.Targets = map[string]*config.Target{}
	for name, target := range p.Targets {
		c := *target
		c.Args = map[string]string{"UNUSED": target.Args["UNUSED"]}
		before.Targets[name] = &c
	}
	text(t, p, options())
	if diff := cmp.Diff(&before, p); diff != "" {
		t.Error(diff)
	}
}

// TestSeveralErrors checks that the errors of all targets are reported in order, and that a missing base of two targets
// is reported once.
func TestSeveralErrors(t *testing.T) {
	dir := t.TempDir()
	inline := func(s string) *string { return &s }
	p := project(dir,
		&config.Target{Name: "a", DockerfileInline: inline("FROM missing")},
		&config.Target{Name: "b", DockerfileInline: inline("RUM x")},
		&config.Target{Name: "c", DockerfileInline: inline("FROM missing")},
		&config.Target{Name: "d", DockerfileInline: inline("FROM a"), Contexts: map[string]string{"a": "target:a"}},
	)
	_, err := planner.Plan(t.Context(), p, options())
	want := "target a: dockerfile-inline of a:1: resolve docker.io/library/missing:latest: manifest unknown\n" +
		"target b: dockerfile-inline of b:1: unknown instruction: RUM (did you mean RUN?)"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if !errors.Is(err, errMissing) {
		t.Error("the resolver's error is not in the chain")
	}
}

// TestEpochBeyondAllYears checks the error for a time that an image config cannot represent.
func TestEpochBeyondAllYears(t *testing.T) {
	dockerfile := "FROM scratch"
	p := project(t.TempDir(), &config.Target{
		Name: "a", DockerfileInline: &dockerfile, Args: map[string]string{"SOURCE_DATE_EPOCH": "253402300800"},
	})
	want := "SOURCE_DATE_EPOCH 253402300800 is after the year 9999"
	if got := text(t, p, options()); !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestBigLink checks that a linked target has the same limits as a base image.
func TestBigLink(t *testing.T) {
	base, user := "FROM scratch\nENV A="+strings.Repeat("x", 40_000), "FROM base\nENV A=$A$A"
	p := project(t.TempDir(), &config.Target{Name: "base", DockerfileInline: &base},
		&config.Target{Name: "user", DockerfileInline: &user, Contexts: map[string]string{"base": "target:base"}})
	got := text(t, p, options())
	if want := "target base cannot be used as a base: variable A has 40002 bytes"; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestCancel checks that a plan waiting for a registry ends when its context is canceled.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	opts := options()
	opts.Resolver = waiting(cancel)
	dockerfile := "FROM alpine"
	_, err := planner.Plan(ctx, project(t.TempDir(), &config.Target{Name: "a", DockerfileInline: &dockerfile}), opts)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// waiting is a resolver that cancels the plan and then waits for that cancellation.
type waiting context.CancelFunc

func (w waiting) ResolveImage(ctx context.Context, _ string, _ ocispecs.Platform) (planner.ResolvedImage, error) {
	w()
	<-ctx.Done()
	return planner.ResolvedImage{}, ctx.Err()
}

// TestPlanLeavesNothing checks that the resolver is not in use when Plan returns, even if one stage fails while another
// one waits for a registry.
func TestPlanLeavesNothing(t *testing.T) {
	r := &slowResolver{called: make(chan struct{})}
	opts := options()
	opts.Resolver = r
	dockerfile := "FROM slow AS a\nFROM fails AS b\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /"
	_, err := planner.Plan(t.Context(), project(t.TempDir(), &config.Target{Name: "a", DockerfileInline: &dockerfile}),
		opts)
	if !errors.Is(err, errMissing) {
		t.Errorf("got %v", err)
	}
	if n := r.busy; n != 0 {
		t.Errorf("%d requests are still running", n)
	}
}

// slowResolver fails for the image fails as soon as another image is requested. The other request continues for a while
// after it is canceled. busy is not guarded, so the race detector reports a request that runs after Plan.
type slowResolver struct {
	called chan struct{}
	busy   int
}

func (r *slowResolver) ResolveImage(ctx context.Context, ref string, _ ocispecs.Platform) (planner.ResolvedImage,
	error) {
	if strings.Contains(ref, "fails") {
		<-r.called
		return planner.ResolvedImage{}, errMissing
	}
	r.busy++
	close(r.called)
	<-ctx.Done()
	for range 1000 {
		runtime.Gosched()
	}
	r.busy--
	return planner.ResolvedImage{}, ctx.Err()
}

// TestBombs checks that Dockerfiles that would need excessive memory or time are refused quickly.
func TestBombs(t *testing.T) {
	doubling := strings.Repeat("ENV A=$A$A\n", 60)
	cases := map[string]string{
		"env":           "FROM scratch\nENV A=xx\n" + doubling,
		"arg":           "FROM scratch\nARG A=xx\n" + strings.Repeat("ARG A=$A$A\n", 60),
		"global arg":    "ARG A=xx\n" + strings.Repeat("ARG A=$A$A\n", 60) + "FROM $A",
		"two variables": "FROM scratch\nENV A=xx B=yy\n" + strings.Repeat("ENV A=$B$B\nENV B=$A$A\n", 30),
		"stages": "FROM scratch AS s0\nENV A=xx\n" +
			strings.Repeat("FROM s0 AS s0\n"+strings.Repeat("ENV A=$A$A\n", 5), 10),
		"any stage": "ARG S=s0\nFROM scratch AS s0\nENV A=xx\n" +
			strings.Repeat("FROM $S AS s0\n"+strings.Repeat("ENV A=$A$A\n", 5), 10),
		"named by value": "FROM scratch\nENV N=A\nENV A=xx\n" + strings.Repeat("ENV $N=$A$A\n", 60),
		"quoted name":    "FROM scratch\nENV A=xx\n" + strings.Repeat("ENV \"A\"=$A$A\n", 60),
		"onbuild":        "FROM scratch AS b\nENV A=xx\n" + strings.Repeat("ONBUILD ENV A=$A$A\n", 60) + "FROM b",
		"replace":        "FROM scratch\nENV A=xxxxxxxxxx\n" + strings.Repeat("ENV A=${A//x/xxxxxxxxxx}\n", 20),
		"wide run": "FROM scratch\nENV A=" + strings.Repeat("x", 60_000) + "\nENV B=$A$A$A$A$A$A$A$A$A$A\nRUN " +
			strings.Repeat("$B", 20_000),
		"many runs": "FROM scratch\nENV A=" + strings.Repeat("x", 60_000) + "\nENV B=$A$A$A$A$A$A$A$A$A$A\n" +
			strings.Repeat("RUN x\n", 5000),
		"nesting":      "FROM scratch\nENV A=" + strings.Repeat("${B:-", 12_000) + strings.Repeat("}", 12_000),
		"instructions": "FROM scratch\n" + strings.Repeat("ENV A=1\n", 6_000),
		"onbuild copies": "FROM scratch AS b\n" + strings.Repeat("ONBUILD ENV A=1\n", 1000) +
			strings.Repeat("FROM b\n", 1000),
		"chain": "FROM scratch\n" + strings.Repeat("ONBUILD \\\n", 1_000_000) + "RUN x",
		"patterns": "FROM scratch\nENV A=" + strings.Repeat("x", 60_000) + "\nENV B=${A%" +
			strings.Repeat("*x", 20_000) + "}",
	}
	for name, dockerfile := range cases {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := planner.Plan(t.Context(), project(t.TempDir(),
				&config.Target{Name: "a", DockerfileInline: &dockerfile}), options())
			var refused *planner.DockerfileError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a DockerfileError", err)
			}
			if took := time.Since(start); took > time.Minute { // without a bound it takes hours
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestNoBombs checks that patterns of real Dockerfiles are accepted.
func TestNoBombs(t *testing.T) {
	cases := map[string]string{
		"path":        "FROM alpine\n" + strings.Repeat("ENV PATH=$PATH:/opt/bin LD=$LD:/opt/lib\n", 100),
		"many stages": strings.Repeat("FROM alpine\nENV P=$P/a:$P/b\n", 100),
		"replace": "FROM alpine\nARG TARGETARCH\nENV A=${TARGETARCH/amd64/x86_64} V=1.2.3\nENV W=${V//./_}\nENV " +
			"X=${W%_*}",
		"script": "FROM alpine\nENV V=1\nRUN <<EOF\n" +
			strings.Repeat("for i in $list; do echo ${i##*/} $V; done\n", 500) + "EOF\n",
		"long": "FROM alpine\n" + strings.Repeat("ENV A=1\nRUN echo $A ${B} $C\n", 400),
	}
	for name, dockerfile := range cases {
		t.Run(name, func(t *testing.T) {
			p := project(t.TempDir(), &config.Target{Name: "a", DockerfileInline: &dockerfile})
			if _, err := planner.Plan(t.Context(), p, options()); err != nil {
				t.Error(err)
			}
		})
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, services := range []int{50, 200} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			p := monorepo(b, b.TempDir(), services)
			opts := options()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := planner.Plan(b.Context(), p, opts); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*services), "µs/target")
		})
	}
}

// TestNamesHaveNoPassword checks that step names, which are displayed and recorded, contain no password of a URL, and
// that the sources keep it.
func TestNamesHaveNoPassword(t *testing.T) {
	dir := t.TempDir()
	text := "FROM scratch\nADD http://user:a-secret@example.com/x.tar https://ci:b-secret@example.com:444/y /d/\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := planner.Plan(t.Context(), project(dir, &config.Target{Name: "api"}), planner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sources := 0
	for _, s := range g.Steps {
		if strings.Contains(s.Name, "-secret") {
			t.Errorf("the name %q contains a password", s.Name)
		}
		if strings.Contains(s.Op.GetSource().GetIdentifier(), "-secret@") {
			sources++
		}
	}
	if sources != 2 {
		t.Errorf("%d sources have their passwords, want 2", sources)
	}
}
