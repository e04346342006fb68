package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
)

func TestStagesInTheSandbox(t *testing.T) {
	s := newBox(t, map[string]string{
		"Dockerfile": tools + `FROM tools AS build
WORKDIR /src
COPY a.txt .
RUN ["/step", "copy", "a.txt", "/out/a", ";", "facts", "/facts"]
FROM tools
COPY --from=build /out /app
RUN ["/step", "copy", "/app/a", "/b", ";", "absent", "/src", ";", "absent", "/facts"]
`, "a.txt": "one", "unused.txt": "x",
	})
	build, final := "/step copy a.txt /out/a ; facts /facts", "/step copy /app/a /b ; absent /src ; absent /facts"
	s.must(final, build)
	if got := s.file("api", "/b"); got != "one" {
		t.Errorf("b is %q", got)
	}
	s.must()
	s.write(map[string]string{"unused.txt": "y"})
	s.must()
	s.write(map[string]string{"a.txt": "two"})
	s.must(final, build)
	if got := s.file("api", "/b"); got != "two" {
		t.Errorf("b is %q", got)
	}
}

func TestFactsOfAStep(t *testing.T) {
	t.Setenv("HOST_SECRET", "leaked")
	s := newBox(t, map[string]string{
		"Dockerfile": tools + "ENV A=b\nWORKDIR /w\nRUN [\"/step\", \"facts\", \"/facts\"]\n",
	})
	s.must("/step facts /facts")
	got := s.file("api", "/facts")
	for _, want := range []string{"pid=1 ", "uid=0 gid=0", "host=buildkitsandbox", "dir=/w", "link=lo ", "A=b",
		"HOME=/"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "HOST_SECRET") || strings.Count(got, "link=") != 1 {
		t.Errorf("the host shows: %q", got)
	}
}

func TestMountsOfAStep(t *testing.T) {
	s := newBox(t, map[string]string{
		"Dockerfile": tools + `FROM tools AS other
RUN ["/step", "write", "/made/x", "from other"]
FROM tools
RUN --mount=type=bind,source=src,target=/in --mount=type=bind,from=other,source=/made,target=/other \
    --mount=type=tmpfs,target=/mem --mount=type=secret,id=tok,target=/tok --mount=type=cache,target=/cache \
    ["/step", "copy", "/in/a.txt", "/a", ";", "copy", "/other/x", "/x", ";", "write", "/mem/t", "t", ";", "copy", "/mem/t", "/t", \
     ";", "copy", "/tok", "/cache/tok", ";", "count", "/cache/n", ";", "copy", "/cache/n", "/n", ";", "readonly", "/in/new"]
RUN ["/step", "absent", "/in", ";", "absent", "/mem", ";", "absent", "/tok", ";", "absent", "/cache", ";", "absent", "/other"]
RUN --mount=type=bind,source=src,target=/in,rw ["/step", "write", "/in/a.txt", "changed", ";", "copy", "/in/a.txt", "/changed"]
`, "src/a.txt": "one", "tok": "a-secret\n",
	})
	s.targets[0].Secrets = []config.Secret{{ID: "tok", Src: filepath.Join(s.dir, "tok")}}
	ran, _, err := s.run()
	if err != nil || len(ran) != 4 {
		t.Fatal(ran, err)
	}
	for path, want := range map[string]string{"/a": "one", "/x": "from other", "/t": "t", "/n": "1",
		"/changed": "changed"} {
		if got := s.file("api", path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if raw, err := os.ReadFile(filepath.Join(s.dir, "src/a.txt")); err != nil || string(raw) != "one" {
		t.Errorf("the context was written: %q, %v", raw, err)
	}
	s.must()
	s.write(map[string]string{"src/a.txt": "two"})
	if ran, _, err := s.run(); err != nil || len(ran) != 3 {
		t.Fatal(ran, err)
	}
	if got := s.file("api", "/n"); got != "2" {
		t.Errorf("the cache mount was not kept: %q", got)
	}
}

func TestFailingStepInTheSandbox(t *testing.T) {
	dockerfile := tools + "FROM tools AS bad\nRUN [\"/step\", \"fail\", \"%\"]\nFROM tools\nCOPY --from=bad /step /s2\n"
	s := newBox(t, map[string]string{"Dockerfile": strings.Replace(dockerfile, "%", "3", 1)})
	_, report, err := s.run()
	var failed *executor.StepError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	if failed.ExitCode != 3 || len(failed.Last) != 2 || !slices.Contains(failed.Last, "it failed") {
		t.Errorf("exit code %d, last lines %q", failed.ExitCode, failed.Last)
	}
	if !strings.Contains(err.Error(), "Dockerfile:4") || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("message %q", err)
	}
	if raw, err := os.ReadFile(failed.Log); err != nil || !strings.Contains(string(raw), "about to fail\n") {
		t.Errorf("log %q, %v", raw, err)
	}
	if len(report.Images) != 0 {
		t.Errorf("images %v", report.Images)
	}
	s.clean()
	s.write(map[string]string{"Dockerfile": strings.Replace(dockerfile, "%", "0", 1)})
	s.must("/step fail 0")
}

func TestCommandThatIsMissing(t *testing.T) {
	s := newBox(t, map[string]string{"Dockerfile": tools + "RUN [\"/nothing\"]\n"})
	_, _, err := s.run()
	var failed *executor.StepError
	if !errors.As(err, &failed) || failed.ExitCode != 127 || !strings.Contains(err.Error(), "was not found") {
		t.Fatalf("got %v", err)
	}
}

const gated = tools + `FROM tools AS gate
RUN --mount=type=secret,id=mode,target=/mode ["/step", "gate", "/mode", ";", "write", "/done", "1"]
FROM tools
COPY --from=gate /done /done
`

// newGate is a site whose step waits for ever while the file mode says so; what the file says is in no key.
func newGate(t *testing.T) *site {
	s := newBox(t, map[string]string{"Dockerfile": gated, "mode": "stay"})
	s.targets[0].Secrets = []config.Secret{{ID: "mode", Src: filepath.Join(s.dir, "mode")}}
	return s
}

func TestCancelledStep(t *testing.T) {
	s := newGate(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	s.opts.Events = func(e executor.Event) {
		if strings.Contains(string(e.Log), "waiting") {
			cancel(why)
		}
	}
	report, err := s.engine.Run(ctx, s.graph(), s.opts)
	if !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
	for _, r := range report.Steps {
		if r.Status == executor.StatusFailed {
			t.Errorf("a cancelled step counts as failed: %v", r.Err)
		}
	}
	s.runner.newRuns()
	s.clean()
	s.opts.Events = nil
	s.write(map[string]string{"mode": "go"})
	s.must("/step gate /mode ; write /done 1")
	s.must()
}

func TestStepsStoppedByAFailure(t *testing.T) {
	s := newBox(t, map[string]string{"mode": "stay", "Dockerfile": tools + `FROM tools AS bad
RUN --mount=type=cache,target=/c ["/step", "fail", "3"]
FROM tools AS long
RUN --mount=type=secret,id=mode,target=/mode ["/step", "gate", "/mode"]
FROM tools
COPY --from=bad /step /1
COPY --from=long /step /2
`})
	s.targets[0].Secrets = []config.Secret{{ID: "mode", Src: filepath.Join(s.dir, "mode")}}
	waiting := make(chan struct{})
	s.opts.Jobs = 2
	s.opts.Events = func(e executor.Event) {
		if strings.Contains(string(e.Log), "waiting") {
			close(waiting)
		}
	}
	s.runner.hold = func(ctx context.Context, args []string) error {
		if args[1] == "fail" {
			<-waiting
		}
		return nil
	}
	_, report, err := s.run()
	var failed *executor.StepError
	if !errors.As(err, &failed) || failed.ExitCode != 3 {
		t.Fatalf("got %v", err)
	}
	n := 0
	for _, r := range report.Steps {
		if r.Status == executor.StatusFailed {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d steps failed: one did, and stopped the other", n)
	}
	s.clean()
}

// clean fails the test when a stopped build left layers in the making.
func (s *site) clean() {
	s.t.Helper()
	left, err := filepath.Glob(filepath.Join(s.store.Dir(), "tmp", "*", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	if len(left) > 0 {
		s.t.Errorf("left over: %q", left)
	}
}

func TestSameDigestsFromTwoCaches(t *testing.T) {
	files := map[string]string{
		"Dockerfile": tools + `COPY lib /lib
RUN ["/step", "write", "/etc/made", "text"]
WORKDIR /app
COPY --chown=7:8 --chmod=640 a.txt /app/
RUN ["/step", "copy", "a.txt", "b.txt"]
CMD ["/step"]
`, "a.txt": "one", "lib/x/y": "1", "lib/z": "2",
	}
	severalIDs(t)
	var digests []string
	for _, jobs := range []int{1, 8} {
		s := newBox(t, files)
		s.opts.Jobs = jobs
		s.targets[0].Outputs = nil
		s.targets[0].Tags = []string{"example/api:1"}
		_, report, err := s.run()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, report.Images[0].Digest.String())
		_, report, err = s.run()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, report.Images[0].Digest.String())
	}
	if len(slices.Compact(slices.Clone(digests))) != 1 {
		t.Errorf("digests %q", digests)
	}
}
