package embedded

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
)

// stepVariable names the compiled testdata/step, where there is no compiler.
const stepVariable = "BAKE_TEST_STEP"

// step is the bytes of testdata/step, compiled once.
var step = sync.OnceValues(func() ([]byte, error) {
	if path := os.Getenv(stepVariable); path != "" {
		return os.ReadFile(path)
	}
	dir, err := os.MkdirTemp("", "step-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "step")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/step")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(err, errors.New(string(text)))
	}
	return os.ReadFile(out)
})

// lack skips the test, where CI does not ask for all of them.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// newBox is newSite with the real sandbox: steps execute /step, which the stage "tools" of each Dockerfile brings.
func newBox(t testing.TB, files map[string]string) *site {
	t.Helper()
	program, err := step()
	if err != nil {
		lack(t, "the program of the steps cannot be compiled: "+err.Error())
	}
	s := newSite(t, files)
	if err := os.WriteFile(filepath.Join(s.dir, "step"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	s.runner.next = &sandbox.Sandbox{Filters: seccomp.Filters}
	probe(t, s.runner.next, filepath.Join(s.dir, "step"))
	return s
}

// probe skips the test where no sandbox can be had.
func probe(t testing.TB, r Runner, program string) {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyFile(program, filepath.Join(dir, "lower", "step")); err != nil {
		t.Fatal(err)
	}
	_, err := r.Run(context.Background(), sandbox.Spec{
		Root: sandbox.Overlay{Lower: []string{dir + "/lower"}, Upper: dir + "/upper", Work: dir + "/work"},
		Args: []string{"/step"}, Cwd: "/",
	})
	var no *sandbox.UnavailableError
	if errors.As(err, &no) {
		lack(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// severalIDs skips the test in a user namespace with one id, where all files are root's.
func severalIDs(t testing.TB) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(raw)); len(fields) == 3 && fields[2] == "1" {
		lack(t, "needs more than one id: "+idmap.Remedy)
	}
}

// tools begins a Dockerfile: a stage with /step and nothing else.
const tools = "FROM scratch AS tools\nCOPY step /step\n"

// target is a target of its own Dockerfile, stored in the cache alone.
func target(name string) *config.Target {
	return &config.Target{Name: name, Dockerfile: name + ".Dockerfile", Outputs: []config.Attrs{{"type": "cacheonly"}}}
}
