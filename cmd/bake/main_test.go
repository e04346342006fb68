package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bakebuild/bake/executor/dial"
)

// TestMain makes bake a command of the scripts, also under the name of a plugin of the Docker CLI.
func TestMain(m *testing.M) {
	if code, isHelper := dial.Helper(os.Getenv, os.Args[1:]); isHelper {
		os.Exit(code)
	}
	testscript.Main(m, map[string]func(){"bake": main, "docker-mybake": main})
}

// TestScript runs the command line in testdata/script. $EXAMPLES is a copy of the examples that the script may change.
// BAKE_UPDATE_SCRIPTS=1 replaces the expected output in the scripts.
func TestScript(t *testing.T) {
	needSandbox(t)
	goroot := goRoot(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: isTrue(os.Getenv("BAKE_UPDATE_SCRIPTS")),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(e *testscript.Env) error {
			e.Setenv("GOROOT", goroot)
			e.Setenv("BAKE_CACHE_DIR", filepath.Join(e.WorkDir, "cache"))
			e.Setenv("EXAMPLES", filepath.Join(e.WorkDir, "examples"))
			e.Setenv("NO_COLOR", "1")
			e.Setenv("GORACE", os.Getenv("GORACE"))
			return os.CopyFS(filepath.Join(e.WorkDir, "examples"), os.DirFS("../../examples"))
		},
	})
}

// exits CODE COMMAND… checks an exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%s: got %v, want exit %s", strings.Join(args[1:], " "), err, args[0])
	}
}

// goRoot returns the directory of the Go toolchain that the examples build with.
func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// needSandbox skips a test where steps cannot run and layers cannot be created.
func needSandbox(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	skip(t, "steps as an unprivileged user are tested by the root run, which becomes one")
}

// skip skips a test for a missing capability; in CI that is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if isTrue(os.Getenv("CI")) {
		t.Fatalf("CI must not skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// cli runs bake with its own cache and working directory.
type cli struct {
	dir   string
	cache string
	env   map[string]string
	stdin string
	// user is the user that bake runs as; nil is the user of the test.
	user *syscall.Credential
}

// newCLI returns a cli with an empty cache and an empty directory.
func newCLI(t *testing.T) *cli {
	t.Helper()
	return &cli{dir: t.TempDir(), cache: t.TempDir(), env: map[string]string{}}
}

// run runs bake as a separate process and returns both outputs and the exit code.
func (c *cli) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := bakeCommand(t, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+c.cache)
	for k, v := range c.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	if c.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
		cmd.Env = append(cmd.Env, "HOME="+c.cache, "XDG_CACHE_HOME=", "XDG_RUNTIME_DIR=")
	}
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok runs bake and fails the test unless it succeeds.
func (c *cli) ok(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, code := c.run(t, args...)
	if code != 0 {
		t.Fatalf("bake %s: exit %d\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout, stderr
}

// read returns the content of a file below the project.
func (c *cli) read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// write writes a file below the directory of c.
func (c *cli) write(t *testing.T, name, content string) {
	t.Helper()
	writeFile(t, filepath.Join(c.dir, name), content)
}

// TestHelpNeedsNothing shows that help, version and completion work without a cache, a project or a home directory.
func TestHelpNeedsNothing(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"version"}, {"build", "--help"}, {"completion", "bash"}} {
		a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
		if code := a.run(context.Background(), args); code != 0 {
			t.Errorf("bake %s: exit %d", strings.Join(args, " "), code)
		}
	}
}
