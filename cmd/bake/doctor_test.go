package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/docker"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// doctorView is the documented JSON format of bake doctor.
type doctorView struct {
	Version int `json:"version"`
	Checks  []struct {
		Name    *string `json:"name"`
		Subject *string `json:"subject"`
		Status  *string `json:"status"`
		Detail  *string `json:"detail"`
		Fix     *string `json:"fix"`
	} `json:"checks"`
}

// doctor runs bake doctor with JSON and returns the status of each check by its name and subject, and the exit code.
func (c *cli) doctor(t *testing.T, args ...string) (map[string]string, int) {
	t.Helper()
	stdout, stderr, code := c.run(t, append([]string{"doctor", "--format=json"}, args...)...)
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	var v doctorView
	if err := d.Decode(&v); err != nil || v.Version != 1 {
		t.Fatalf("version %d, %v in:\n%s%s", v.Version, err, stdout, stderr)
	}
	all := map[string]string{}
	for _, c := range v.Checks {
		if c.Name == nil || c.Subject == nil || c.Status == nil || c.Detail == nil || c.Fix == nil || *c.Detail == "" {
			t.Fatalf("a field is missing in:\n%s", stdout)
		}
		all[strings.TrimSpace(*c.Name+" "+*c.Subject)] = *c.Status
	}
	return all, code
}

// quiet makes a command line independent of the configuration of the machine that tests it.
func quiet(t *testing.T) *cli {
	t.Helper()
	c := newCLI(t)
	home := t.TempDir()
	c.env["HOME"], c.env["DOCKER_CONFIG"], c.env["DOCKER_HOST"], c.env["DOCKER_CONTEXT"] = home, home, "", ""
	c.env["REGISTRY_AUTH_FILE"], c.env["XDG_CONFIG_HOME"], c.env["XDG_RUNTIME_DIR"] = "", "", ""
	c.env["CONTAINERS_REGISTRIES_CONF"], c.env["BUILDKIT_HOST"], c.env["BAKE_ENGINE"] = os.DevNull, "", ""
	return c
}

// TestDoctor runs the command where all is well, as root and as an unprivileged user, and checks the exit codes of
// failures: 7 for this machine, 5 for the network.
func TestDoctor(t *testing.T) {
	needSandbox(t)
	c := quiet(t)
	good, code := c.doctor(t, "--offline")
	if code != 0 {
		t.Errorf("exit code %d: %v", code, good)
	}
	for _, name := range []string{
		"kernel", "clock", "open files", "cache", "disk", "sandbox", "overlay", "seccomp", "network of steps", "git",
	} {
		if good[name] != "ok" && good[name] != "warning" {
			t.Errorf("%s: %q", name, good[name])
		}
	}
	if good["registry docker.io"] != "skipped" || good["user namespaces"] != "skipped" {
		t.Errorf("%v", good)
	}
	c.env["DOCKER_HOST"] = "tcp://" + "127.0.0.1:" + reservePort(t)
	if got, code := c.doctor(t, "--offline"); got["docker"] != "failure" || code != 5 {
		t.Errorf("docker: %q, exit code %d", got["docker"], code)
	}
	c.cache = filepath.Join(c.dir, "file")
	c.write(t, "file", "")
	if got, code := c.doctor(t, "--offline"); got["cache"] != "failure" || got["overlay"] != "skipped" || code != 7 {
		t.Errorf("cache: %q, overlay: %q, exit code %d", got["cache"], got["overlay"], code)
	}

	user := quiet(t)
	user.user = testUser(t)
	giveTo(t, user.user, user.dir)
	giveTo(t, user.user, user.cache)
	got, code := user.doctor(t, "--offline")
	if code != 0 || got["user namespaces"] != "ok" || got["subordinate ids"] != "ok" || got["sandbox"] != "ok" {
		t.Errorf("as a user: exit code %d, %v", code, got)
	}
}

// TestDoctorProject shows that registries and engines of the project in the working directory are checked, and that
// mistakes in it, in registries.conf and in BUILDKIT_HOST are lines of the report.
func TestDoctorProject(t *testing.T) {
	needSandbox(t)
	c := quiet(t)
	tagged, mirror, engine := "127.0.0.1:"+reservePort(t), "127.0.0.1:"+reservePort(t), "127.0.0.1:"+reservePort(t)
	c.write(t, "bake.hcl", fmt.Sprintf(`
registry "docker.io" { mirrors = [%q] }
engine "one" { address = "tcp://%s" }
target "a" { tags = ["%s/a:1"] }
group "other" { targets = ["a"] }
`, mirror, engine, tagged))
	got, code := c.doctor(t)
	for name, want := range map[string]string{
		"project": "ok", "mirror " + mirror: "warning", "registry " + tagged: "warning",
		"engine tcp://" + engine: "failure",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if code != 5 {
		t.Errorf("exit code %d", code)
	}
	c.write(t, "bake.hcl", "target {")
	c.write(t, "registries.conf", "registry =")
	c.env["CONTAINERS_REGISTRIES_CONF"], c.env["BUILDKIT_HOST"] = filepath.Join(c.dir, "registries.conf"), "nonsense"
	got, code = c.doctor(t, "--offline")
	if got["project"] != "warning" || got["registries.conf"] != "failure" || got["engine"] != "failure" || code != 5 {
		t.Errorf("exit code %d, %v", code, got)
	}
}

// TestDoctorText shows the text output: one aligned line for each check without colors, and the failures at the end.
func TestDoctorText(t *testing.T) {
	needSandbox(t)
	c := quiet(t)
	c.env["BUILDKIT_HOST"] = "tcp://" + "127.0.0.1:" + reservePort(t)
	stdout, stderr, code := c.run(t, "doctor", "--offline")
	if code != 0 || strings.Contains(stdout, "\x1b") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	lines := strings.Split(strings.TrimRight(stdout, "\n"), "\n")
	column := strings.Index(lines[0], "Linux")
	for _, line := range lines {
		if len(line) <= column || line[column-1] != ' ' || line[column] == ' ' {
			t.Errorf("not aligned at column %d: %s", column, line)
		}
	}
	stdout, stderr, code = c.run(t, "doctor")
	if want := "failed: engine tcp://"; code != 5 || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, want 5 and %q in:\n%s%s", code, want, stdout, stderr)
	}
	if strings.Contains(stderr, "bake doctor") {
		t.Errorf("the report recommends itself:\n%s", stderr)
	}
	_, stderr, code = c.run(t, "doctor", "--format=xml")
	if code != 2 || !strings.Contains(stderr, "expected text or json") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// TestDoctorHangs shows that the report comes within ten seconds when everything hangs: the lock of the cache, a
// registry, a credential helper, the Docker engine and a daemon, and then the files that name them.
func TestDoctorHangs(t *testing.T) {
	needSandbox(t)
	c := quiet(t)
	c.ok(t, "cache", "du")
	lock, err := os.OpenFile(filepath.Join(c.cache, "locks", "open"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // it accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent, home := l.Addr().String(), c.env["HOME"]
	writeFile(t, filepath.Join(home, "config.json"), `{"credHelpers":{"x.example.com":"hangs"}}`)
	writeFile(t, filepath.Join(home, "docker-credential-hangs"), "#!/bin/sh\nsleep 60 & sleep 60\n")
	if err := os.Chmod(filepath.Join(home, "docker-credential-hangs"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.write(t, "registries.conf", "[[registry]]\nlocation = \""+silent+"\"\n")
	c.env["CONTAINERS_REGISTRIES_CONF"] = filepath.Join(c.dir, "registries.conf")
	c.env["BUILDKIT_HOST"], c.env["DOCKER_HOST"] = "tcp://"+silent, "tcp://"+silent
	c.env["PATH"] = home + ":" + os.Getenv("PATH")
	for _, hangs := range [][]string{
		{
			"cache", "sandbox", "seccomp", "registry " + silent, "credential helper hangs", "docker",
			"engine tcp://" + silent,
		},
		{"cache", "configuration"},
	} {
		start := time.Now()
		got, code := c.doctor(t)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		for _, name := range hangs {
			if got[name] != "failure" {
				t.Errorf("%s: %q, want a failure", name, got[name])
			}
		}
		if code != 7 || got["kernel"] == "" || got["disk"] == "" {
			t.Errorf("exit code %d: %v", code, got)
		}
		if err := os.Remove(c.env["CONTAINERS_REGISTRIES_CONF"]); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(c.env["CONTAINERS_REGISTRIES_CONF"], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDoctorHint shows which errors end with the hint: those of the environment, through all commands, and not those
// of the user's files and arguments.
func TestDoctorHint(t *testing.T) {
	needSandbox(t)
	dead := "127.0.0.1:" + reservePort(t)
	c := quiet(t)
	c.write(t, "bake.hcl", `target "default" { dockerfile-inline = "FROM `+dead+`/base\nRUN true" }`)
	c.write(t, "typo.hcl", `target "default" { dockerfile-inline = "FROM scratch\nNONE" }`)
	c.write(t, "docker.hcl", `target "default" {
  dockerfile-inline = "FROM scratch\nCOPY docker.hcl /"
  tags = ["x"]
  output = ["type=docker"]
}`)
	c.write(t, "step.hcl", `target "default" { dockerfile-inline = "FROM scratch\nRUN [\"/none\"]" }`)
	c.write(t, "git.hcl", `target "default" { context = "https://`+dead+`/a.git" }`)
	c.write(t, "auth/config.json", `{"credsStore":"gone"}`)
	c.write(t, "file", "")
	for _, test := range []struct {
		name, env, value string
		args             []string
		code             int
		hint             bool
	}{
		{"registry does not answer", "", "", []string{"build"}, 5, true},
		{"no credential helper", "DOCKER_CONFIG", c.dir + "/auth", []string{"build"}, 5, true},
		{"pull", "", "", []string{"image", "pull", dead + "/a"}, 5, true},
		{"docker does not answer", "DOCKER_HOST", "tcp://" + dead, []string{"build", "-f", "docker.hcl"}, 5, true},
		{"no such docker context", "DOCKER_CONTEXT", "gone", []string{"build", "-f", "docker.hcl"}, 5, true},
		{"engine does not answer", "BUILDKIT_HOST", "tcp://" + dead, []string{"build", "-f", "step.hcl"}, 5, true},
		{"no git", "PATH", c.dir, []string{"build", "-f", "git.hcl"}, 5, true},
		{"cache is a file", "BAKE_CACHE_DIR", c.dir + "/file", []string{"cache", "du"}, 7, true},
		{"usage", "", "", []string{"build", "--nonsense"}, 2, false},
		{"Dockerfile", "", "", []string{"build", "-f", "typo.hcl"}, 2, false},
		{"engine address", "BUILDKIT_HOST", "nonsense", []string{"build", "-f", "step.hcl"}, 2, false},
		{"step", "", "", []string{"build", "-f", "step.hcl"}, 1, false},
		{"offline", "", "", []string{"build", "--offline"}, 5, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			one := *c
			one.env = map[string]string{}
			for name, value := range c.env {
				one.env[name] = value
			}
			if test.env != "" {
				one.env[test.env] = test.value
			}
			_, stderr, code := one.run(t, test.args...)
			hinted := strings.HasSuffix(stderr, "run `bake doctor`\n")
			if code != test.code || hinted != test.hint || strings.Count(stderr, "bake doctor") > 1 {
				t.Errorf("exit code %d, want %d; hint %v, want %v:\n%s", code, test.code, hinted, test.hint, stderr)
			}
		})
	}
}

// TestEnvironmentErrors covers errors that no test can provoke everywhere.
func TestEnvironmentErrors(t *testing.T) {
	box := &sandbox.UnavailableError{What: "x", Err: syscall.EPERM}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{box, true},
		{fmt.Errorf("target a: %w", &executor.StepError{Err: box}), true},
		{&cache.Error{Op: "write", Path: "/x", Err: syscall.ENOSPC}, true},
		{&docker.Error{Host: "x", Err: errors.New("load: bad image")}, false},
		{&executor.StepError{Err: errors.New(idmap.Unmapped("owner 5:5"))}, true},
		{fmt.Errorf("read: %w", syscall.EMFILE), true},
		{fmt.Errorf("start: %w", syscall.ENOMEM), true},
		{&fetch.Error{URL: "https://x", Err: &net.DNSError{Err: "no such host", Name: "x"}}, true},
		{&fetch.Error{URL: "https://x", Err: errors.New("status 404")}, false},
		{&executor.StepError{ExitCode: 1}, false},
		{usagef("unknown flag"), false},
		{fmt.Errorf("read Dockerfile: %w", syscall.ENOENT), false},
	} {
		if got := fromEnvironment(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}
