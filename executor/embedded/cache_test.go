package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
)

const copyAndRun = "FROM scratch\nCOPY a.txt /a.txt\nRUN [\"copy\", \"/a.txt\", \"/b.txt\"]\n"

func TestSecondBuildRunsNothing(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	s.must("copy /a.txt /b.txt")
	report := s.must()
	for _, r := range report.Steps {
		if r.Status != executor.StatusCached && r.Status != executor.StatusNotNeeded {
			t.Errorf("%s %s", r.Status, r.Reason)
		}
	}
	if got := s.file("api", "/b.txt"); got != "one" {
		t.Errorf("b.txt is %q", got)
	}
}

func TestChangedFileRunsWhatReadsIt(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one", "unused.txt": "x"})
	s.must("copy /a.txt /b.txt")
	s.write(map[string]string{"unused.txt": "y"})
	s.must()
	s.write(map[string]string{"a.txt": "two"})
	report := s.must("copy /a.txt /b.txt")
	last := report.Steps[len(report.Steps)-1]
	if !strings.Contains(last.Reason, "it follows from ") {
		t.Errorf("reason %q", last.Reason)
	}
	if got := s.file("api", "/b.txt"); got != "two" {
		t.Errorf("b.txt is %q", got)
	}
	s.write(map[string]string{"a.txt": "one"})
	s.must()
}

func TestTouchedFileIsNotChanged(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	s.must("copy /a.txt /b.txt")
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(s.dir, "a.txt"), later, later); err != nil {
		t.Fatal(err)
	}
	s.must()
}

func TestIgnoredFileIsNotRead(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile":    "FROM scratch\nCOPY . /src\nRUN [\"write\", \"/done\", \"1\"]\n",
		".dockerignore": "*.log\n", "a.txt": "one", "b.log": "x",
	})
	s.must("write /done 1")
	s.write(map[string]string{"b.log": "y"})
	s.must()
}

func TestEarlyCutOff(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch AS build\nCOPY a.txt /a.txt\nRUN [\"write\", \"/out\", \"same\"]\n" +
			"FROM scratch\nCOPY --from=build /out /out\nRUN [\"count\", \"/n\"]\n",
		"a.txt": "one",
	})
	s.must("count /n", "write /out same")
	s.write(map[string]string{"a.txt": "two"})
	s.must("write /out same")
	s.must()
}

func TestCopyFromSeesAChange(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch AS build\nCOPY a.txt /a.txt\nRUN [\"copy\", \"/a.txt\", \"/out\"]\n" +
			"FROM scratch\nCOPY --from=build /out /out\nRUN [\"copy\", \"/out\", \"/n\"]\n",
		"a.txt": "one",
	})
	s.must("copy /a.txt /out", "copy /out /n")
	s.write(map[string]string{"a.txt": "two"})
	s.must("copy /a.txt /out", "copy /out /n")
	if got := s.file("api", "/n"); got != "two" {
		t.Errorf("n is %q", got)
	}
}

func TestSharedStageRunsOnce(t *testing.T) {
	s := newSite(t, map[string]string{
		"a.Dockerfile": "FROM scratch AS base\nRUN [\"count\", \"/base\"]\nFROM base\nRUN [\"write\", \"/a\", \"1\"]\n",
		"b.Dockerfile": "FROM scratch AS base\nRUN [\"count\", \"/base\"]\nFROM base\nRUN [\"write\", \"/b\", \"1\"]\n",
	})
	s.targets = []*config.Target{
		{Name: "a", Dockerfile: "a.Dockerfile", Outputs: s.targets[0].Outputs},
		{Name: "b", Dockerfile: "b.Dockerfile", Outputs: s.targets[0].Outputs},
	}
	s.must("count /base", "write /a 1", "write /b 1")
	s.must()
}

func TestCopyRunsOnceForAllParents(t *testing.T) {
	files := map[string]string{"lib/x": "1"}
	var targets []*config.Target
	for _, n := range []string{"a", "b", "c"} {
		files[n+".Dockerfile"] = "FROM scratch\nRUN [\"write\", \"/" + n + "\", \"1\"]\nCOPY lib /lib\n"
		targets = append(targets, &config.Target{Name: n, Dockerfile: n + ".Dockerfile",
			Outputs: []config.Attrs{{"type": "cacheonly"}}})
	}
	s := newSite(t, files)
	s.targets = targets
	s.must("write /a 1", "write /b 1", "write /c 1")
	layers, err := os.ReadDir(filepath.Join(s.store.Dir(), "layers"))
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 4 { // three commands, one copy
		t.Errorf("%d layers", len(layers))
	}
	for _, n := range []string{"a", "b", "c"} {
		if got := s.file(n, "/lib/x"); got != "1" {
			t.Errorf("%s: %q", n, got)
		}
	}
}

func TestCopyIsNotSharedWhereTheParentDiffers(t *testing.T) {
	// In b /lib is a file of another step's making, so that its COPY cannot be a's.
	s := newSite(t, map[string]string{
		"a.Dockerfile": "FROM scratch\nRUN [\"write\", \"/a\", \"1\"]\nCOPY x /lib\n",
		"b.Dockerfile": "FROM scratch\nRUN [\"write\", \"/lib/y\", \"1\"]\nCOPY x /lib\n",
		"x":            "text",
	})
	s.targets = []*config.Target{
		{Name: "a", Dockerfile: "a.Dockerfile", Outputs: s.targets[0].Outputs},
		{Name: "b", Dockerfile: "b.Dockerfile", Outputs: s.targets[0].Outputs},
	}
	s.must("write /a 1", "write /lib/y 1")
	if got := s.file("a", "/lib"); got != "text" {
		t.Errorf("a: %q", got)
	}
	if got := s.file("b", "/lib/x"); got != "text" {
		t.Errorf("b: %q", got)
	}
}

// TestCopyOfRawNames: what a copy asked of its parent is kept as it is when names are no text, so that it is not shared
// with a parent that answers otherwise.
func TestCopyOfRawNames(t *testing.T) {
	s := newSite(t, map[string]string{
		"a.Dockerfile":        "FROM scratch\nCOPY first /\nCOPY d /d\n",
		"b.Dockerfile":        "FROM scratch\nCOPY other /\nCOPY d /d\n",
		"d/n\xff":             "file",
		"first/d/x":           "1",
		"other/d/n\xff/below": "1",
	})
	s.targets[0].Dockerfile = "a.Dockerfile"
	s.must()
	s.must() // which a copy of raw names is too when asked again
	s.targets[0].Dockerfile = "b.Dockerfile"
	if _, _, err := s.run(); err == nil {
		t.Error("a file took the place of a directory")
	}
}

func TestNoCacheRunsAndStores(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nRUN [\"count\", \"/n\"]\nRUN [\"copy\", \"/n\", " +
		"\"/m\"]\n"})
	s.must("copy /n /m", "count /n")
	s.opts.NoCache = true
	s.must("copy /n /m", "count /n")
	s.opts.NoCache = false
	s.must()
	if n, m := s.file("api", "/n"), s.file("api", "/m"); n != m {
		t.Errorf("n is %s and m, a copy of it, is %s", n, m)
	}
}

func TestNoCacheFilterRunsUsersToo(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch AS one\nRUN [\"count\", \"/n\"]\nFROM one AS two\nRUN [\"copy\", \"/n\", \"/m\"]\n",
	})
	s.must("copy /n /m", "count /n")
	s.targets[0].NoCacheFilter = []string{"one"}
	s.must("copy /n /m", "count /n")
}

func TestLostLayerIsRebuilt(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	s.must("copy /a.txt /b.txt")
	layers, err := filepath.Glob(filepath.Join(s.store.Dir(), "layers", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if err := os.RemoveAll(l); err != nil {
			t.Fatal(err)
		}
	}
	s.must("copy /a.txt /b.txt")
	if got := s.file("api", "/b.txt"); got != "one" {
		t.Errorf("b.txt is %q", got)
	}
}

func TestBindOfTheContext(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN --mount=type=bind,source=src,target=/in [\"copy\", \"/in/a.txt\", " +
			"\"/b.txt\"]\n",
		"src/a.txt": "one", "other.txt": "x",
	})
	s.must("copy /in/a.txt /b.txt")
	s.write(map[string]string{"other.txt": "y"})
	s.must()
	s.write(map[string]string{"src/a.txt": "two"})
	s.must("copy /in/a.txt /b.txt")
	if got := s.file("api", "/b.txt"); got != "two" {
		t.Errorf("b.txt is %q", got)
	}
}

func TestBindOfOneFile(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN --mount=type=bind,source=a.txt,target=/in [\"copy\", \"/in\", \"/b.txt\"]\n",
		"a.txt":      "one",
	})
	s.must("copy /in /b.txt")
	if got := s.file("api", "/b.txt"); got != "one" {
		t.Errorf("b.txt is %q", got)
	}
}

func TestSecretIsInNoKeyAndNoFile(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN --mount=type=secret,id=tok,target=/tok [\"print\", \"the token is " +
			"hunter2-secret\"]\n",
		"tok": "hunter2-secret\n",
	})
	s.targets[0].Secrets = []config.Secret{{ID: "tok", Src: filepath.Join(s.dir, "tok")}}
	var shown strings.Builder
	s.opts.Events = func(e executor.Event) { shown.Write(e.Log) }
	s.must("print the token is hunter2-secret")
	if !strings.Contains(shown.String(), "the token is ***") {
		t.Errorf("shown %q", shown.String())
	}
	s.write(map[string]string{"tok": "another-secret\n"})
	s.must()
	err := filepath.WalkDir(s.store.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "hunter2-secret\n") {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMissingSecret(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN --mount=type=secret,id=tok,required=true [\"print\", \"x\"]\n",
	})
	_, _, err := s.run()
	var step *executor.StepError
	if !errors.As(err, &step) || !strings.Contains(err.Error(), `secret "tok" not found`) ||
		!strings.Contains(err.Error(), "Dockerfile:2") {
		t.Errorf("got %v", err)
	}
}

// TestUnreadableSecret: a secret whose file or variable is missing is a fault of the step's own, not of this machine.
func TestUnreadableSecret(t *testing.T) {
	for _, secret := range []config.Secret{{ID: "tok", Src: "missing"}, {ID: "tok", Env: "BAKE_TEST_MISSING"}} {
		s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nRUN --mount=type=secret,id=tok [\"print\", " +
			"\"x\"]\n"})
		s.targets[0].Secrets = []config.Secret{secret}
		_, _, err := s.run()
		var step *executor.StepError
		if !errors.As(err, &step) || !strings.HasPrefix(err.Error(), "target ") ||
			!strings.Contains(err.Error(), "secret tok of target") || !strings.Contains(err.Error(), "Dockerfile:2") {
			t.Errorf("err = %v", err)
		}
	}
}

func TestFailedStep(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN [\"fail\", \"3\"]\nRUN [\"write\", \"/x\", \"1\"]\n",
	})
	ran, report, err := s.run()
	var step *executor.StepError
	if !errors.As(err, &step) {
		t.Fatalf("got %v", err)
	}
	if step.ExitCode != 3 || !slices.Equal(step.Last, []string{"about to fail", "it failed"}) || step.Log == "" {
		t.Errorf("%+v", step)
	}
	if text := step.Error(); !strings.Contains(text, "Dockerfile:2") || !strings.Contains(text, "target api") ||
		!strings.Contains(text, "exit code 3") {
		t.Errorf("message %q", text)
	}
	if !slices.Equal(ran, []string{"fail 3"}) {
		t.Errorf("ran %q", ran)
	}
	var statuses []executor.StepStatus
	for _, r := range report.Steps {
		statuses = append(statuses, r.Status)
	}
	if !slices.Contains(statuses, executor.StatusFailed) || !slices.Contains(statuses, executor.StatusSkipped) {
		t.Errorf("statuses %v", statuses)
	}
	s.write(map[string]string{"Dockerfile": "FROM scratch\nRUN [\"write\", \"/x\", \"1\"]\n"})
	s.must("write /x 1")
}

func TestMissingCopySource(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY nothing.txt /\n"})
	_, _, err := s.run()
	var step *executor.StepError
	if !errors.As(err, &step) || !strings.Contains(err.Error(), "nothing.txt is not in the build context") {
		t.Errorf("got %v", err)
	}
}

func TestCancelledBuildLeavesTheCacheRight(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	ctx, cancel := context.WithCancel(t.Context())
	s.runner.hold = func(ctx context.Context, _ []string) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	report, err := s.engine.Run(ctx, s.graph(), s.opts)
	if !errors.Is(err, context.Canceled) || report == nil {
		t.Fatalf("got %v", err)
	}
	s.runner.hold = nil
	s.runner.newRuns()
	s.must("copy /a.txt /b.txt")
}

func TestAnyNumberOfJobsGivesTheSame(t *testing.T) {
	var want []string
	for _, jobs := range []int{1, 8} {
		s := newSite(t, map[string]string{
			"Dockerfile": "FROM scratch AS x\nRUN [\"write\", \"/x\", \"1\"]\nFROM scratch AS y\nRUN [\"write\", " +
				"\"/y\", \"1\"]\n" +
				"FROM scratch\nCOPY --from=x /x /x\nCOPY --from=y /y /y\nCOPY a.txt /\n",
			"a.txt": "one",
		})
		s.targets[0].Outputs = nil
		s.targets[0].Tags = []string{"api"}
		s.opts.Jobs = jobs
		report := s.must("write /x 1", "write /y 1")
		want = append(want, report.Images[0].Digest.String())
	}
	if want[0] != want[1] {
		t.Errorf("digests %v", want)
	}
}

func TestTwoProcessesRunAStepOnce(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	other := New(s.store, nil, Options{Runner: s.runner})
	errs := make(chan error)
	g := s.graph()
	for _, e := range []*Engine{s.engine, other} {
		go func() {
			_, err := e.Run(t.Context(), g, s.opts)
			errs <- err
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if ran := s.runner.newRuns(); len(ran) != 1 {
		t.Errorf("ran %q", ran)
	}
}
