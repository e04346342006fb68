package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/bakebuild/bake/executor/executortest"
)

// outputsProject has an output of each kind. REGISTRY stands for the registry of its base.
const outputsProject = `
group "default" { targets = ["layout", "multi", "docker", "files", "kept"] }
target "common" {
  dockerfile-inline = <<EOT
FROM REGISTRY/busybox:1
ARG TARGETARCH
COPY --chmod=640 app/read /app/read
RUN --mount=type=secret,id=token,env=TOKEN --mount=type=bind,source=lib,target=/lib \
    echo "token $TOKEN" && wc -c </run/secrets/token >/app/size; cat /lib/bound >>/app/read; true
CMD ["cat", "/app/read"]
EOT
  labels = { "a.label" = "x" }
  secret = ["id=token,env=SECRET_TOKEN", "id=token2,src=secret"]
}
target "layout" {
  inherits    = ["common"]
  annotations = ["manifest:k=v"]
  output = [
    "type=oci,dest=out/layout.tar", "type=oci,dest=out/zstd.tar,compression=zstd", "type=oci,tar=false,dest=out/dir",
  ]
}
target "multi" {
  dockerfile-inline = "FROM scratch\nCOPY app/read /read\nARG TARGETARCH\nENV ARCH=$TARGETARCH"
  platforms         = ["linux/amd64", "linux/arm64"]
  annotations       = ["index:i=1", "manifest[linux/arm64]:m=2"]
  output            = ["type=oci,dest=out/multi.tar"]
}
target "docker" {
  inherits = ["common"]
  tags     = ["second/docker:1"]
  output   = ["type=docker,dest=out/docker.tar"]
}
target "files" {
  inherits = ["common"]
  output   = ["type=local,dest=out/files", "type=tar,dest=out/files.tar"]
}
target "kept" {
  inherits = ["common"]
  tags     = ["second/kept:1"]
}
`

// TestSecondEngine shows that a BuildKit daemon as the engine gives the results that the embedded engine gives.
func TestSecondEngine(t *testing.T) {
	needSandbox(t)
	d := startDaemon(t, "")
	bases := serveBases(t)
	t.Run("outputs", func(t *testing.T) { outputsAgree(t, d, bases) })
	t.Run("example", func(t *testing.T) { exampleBuilds(t, d) })
	t.Run("push", func(t *testing.T) { pushInOrder(t, d, bases) })
	t.Run("errors", func(t *testing.T) { errorsOfDaemon(t, d, bases) })
	t.Run("cancel", func(t *testing.T) { cancelled(t, d, bases) })
	t.Run("caches", func(t *testing.T) { remoteCaches(t, d, bases) })
	t.Run("credentials", func(t *testing.T) { privateBase(t, d) })
}

// outputsAgree shows that all outputs are equal with both engines, that only files that are read are sent, and that the
// output has no secret.
func outputsAgree(t *testing.T, d *daemon, bases string) {
	results := map[string][]string{}
	for name, flags := range map[string][]string{"embedded": {"--engine=embedded"}, "daemon": {"--engine", d.address}} {
		c := newCLI(t)
		c.env["SECRET_TOKEN"] = "hunter22"
		c.write(t, "bake.hcl", strings.ReplaceAll(outputsProject, "REGISTRY", bases))
		c.write(t, "app/read", "read\n")
		c.write(t, "lib/bound", "bound\n")
		c.write(t, "secret", "other")
		c.write(t, "app/unread", strings.Repeat("unread\n", 1<<20))
		args := append([]string{"build", "--progress=plain", "--allow=fs=*"}, flags...)
		_, stderr := c.ok(t, args...)
		if strings.Contains(stderr, "hunter22") {
			t.Errorf("%s: the secret is shown:\n%s", name, stderr)
		}
		wantMatch(t, name+" masks the secret", stderr, `(?m)^#\d+ [0-9.]+ token \*\*\*$`)
		if m := regexp.MustCompile(`transferring \S+ [0-9.]+[MG]B`).FindString(stderr); m != "" {
			t.Errorf("%s: more was sent than is read: %s", name, m)
		}
		for _, out := range []string{"layout", "multi", "docker"} {
			text, err := executortest.ReadImage(filepath.Join(c.dir, "out", out+".tar"))
			if err != nil {
				t.Fatalf("%s: %s: %v", name, out, err)
			}
			results[name] = append(results[name], out+"\n"+text)
		}
		if layers := fmt.Sprint(tarFiles(t, filepath.Join(c.dir, "out/zstd.tar"))); !strings.Contains(layers,
			"tar+zstd") {
			t.Errorf("%s: no layer is compressed with zstd", name)
		}
		files, err := os.ReadFile(filepath.Join(c.dir, "out/files/app/read"))
		if err != nil {
			t.Fatal(err)
		}
		results[name] = append(results[name], string(files),
			tarFiles(t, filepath.Join(c.dir, "out/files.tar"))["app/read"])
		stdout, _ := c.ok(t, "image", "inspect", "second/kept:1")
		results[name] = append(results[name], regexp.MustCompile(`"digest": "sha256:\w+"`).FindString(stdout)+"\n")
		_, again := c.ok(t, args...)
		wantMatch(t, name+" again", again, `up to date \(.* cached\)`)
	}
	for i, want := range results["embedded"] {
		if got := results["daemon"][i]; got != want {
			t.Errorf("the engines differ:\n--- embedded\n%s\n--- daemon\n%s", want, got)
		}
	}
}

// exampleBuilds shows that the examples build on a daemon. Other tests build them with the embedded engine.
func exampleBuilds(t *testing.T, d *daemon) {
	c := builderOn(t, d)
	goroot := goRoot(t)
	c.env["GOROOT"] = goroot
	if err := os.CopyFS(c.dir, os.DirFS("../../examples/hello")); err != nil {
		t.Fatal(err)
	}
	_, stderr := c.ok(t, "build", "--allow=fs.read="+goroot)
	for _, name := range []string{"greeter", "counter", "clock"} {
		wantMatch(t, name, stderr, "(?m)^built hello/"+name+":latest sha256:")
	}
}

// TestExampleFlaskOnDaemon shows that the tutorial builds with a daemon that has the mirror of the embedded engine.
func TestExampleFlaskOnDaemon(t *testing.T) {
	registry := realBases(t)
	d := startDaemon(t, fmt.Sprintf("[registry.\"docker.io\"]\nmirrors = [%[1]q]\n[registry.%[1]q]\nhttp = true\n",
		registry))
	c := builderOn(t, d)
	buildFlask(t, c, registry)
}

// requestLog is a registry that records its requests and refuses some.
type requestLog struct {
	http.Handler

	mu     sync.Mutex
	refuse *regexp.Regexp // nil refuses nothing
	all    []string
}

// refuses makes the registry refuse the requests that match a pattern from now on.
func (l *requestLog) refuses(pattern string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = regexp.MustCompile(pattern)
}

// ServeHTTP implements http.Handler.
func (l *requestLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	line := r.Method + " " + r.URL.Path
	l.mu.Lock()
	l.all = append(l.all, line)
	refused := l.refuse != nil && l.refuse.MatchString(line)
	l.mu.Unlock()
	if refused {
		http.Error(w, `{"errors":[{"code":"DENIED","message":"not here"}]}`, http.StatusForbidden)
		return
	}
	l.Handler.ServeHTTP(w, r)
}

// since returns the requests since the last call that match a pattern.
func (l *requestLog) since(pattern string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return slices.DeleteFunc(all, func(line string) bool { return !regexp.MustCompile(pattern).MatchString(line) })
}

// serveLogged starts a requestLog and returns it with its HOST:PORT.
func serveLogged(t *testing.T) (*requestLog, string) {
	t.Helper()
	l := &requestLog{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	return l, strings.TrimPrefix(server.URL, "http://")
}

// pushInOrder shows that tags are pushed after all targets have succeeded and all manifests are pushed by digest. When
// a target fails nothing is pushed, and when a push fails no tag moves.
func pushInOrder(t *testing.T, d *daemon, bases string) {
	requests, address := serveLogged(t)
	c := builderOn(t, d)
	project := func(last string) string {
		text := `group "default" { targets = ["a", "b", "c"] }` + "\n"
		for name, run := range map[string]string{"a": "echo a >/x", "b": "echo b >/x", "c": last} {
			text += fmt.Sprintf("target %q {\n  dockerfile-inline = \"FROM %s/busybox:1\\nRUN %s\"\n"+
				"  tags = [\"%s/push/%s:1\"]\n}\n", name, bases, run, address, name)
		}
		return text
	}
	c.write(t, "bake.hcl", project("exit 3"))
	if _, stderr, code := c.run(t, "build", "--push"); code != 1 {
		t.Fatalf("exit %d:\n%s", code, stderr)
	}
	if all := requests.since("push/"); len(all) > 0 {
		t.Errorf("a target failed, but the registry got requests: %q", all)
	}
	c.write(t, "bake.hcl", project("echo c >/x"))
	c.ok(t, "build", "--push")
	const tag, digest = "PUT /v2/push/[abc]/manifests/1", "PUT /v2/push/[abc]/manifests/sha256:"
	puts := requests.since("^PUT /v2/push/./manifests/")
	var shape string
	for _, line := range puts {
		switch {
		case regexp.MustCompile(digest).MatchString(line):
			shape += "d"
		case regexp.MustCompile(tag).MatchString(line):
			shape += "t"
		}
	}
	if shape != "dddttt" {
		t.Errorf("manifests were pushed as %s: %q", shape, puts)
	}
	c.write(t, "bake.hcl", project("echo other >/x"))
	requests.refuses("PUT /v2/push/c/manifests/sha256:")
	if _, stderr, code := c.run(t, "build", "--push"); code != exitRegistry {
		t.Errorf("exit %d of a push that is refused:\n%s", code, stderr)
	}
	if moved := requests.since(tag); len(moved) > 0 {
		t.Errorf("tags moved though a push failed: %q", moved)
	}
}

// errorsOfDaemon shows that errors have the place and the exit code that they have with the embedded engine.
func errorsOfDaemon(t *testing.T, d *daemon, bases string) {
	for _, test := range []struct {
		name, dockerfile, engine string
		code                     int
		want                     string
	}{
		{"step", "FROM BASE\nRUN echo out; exit 7", "", 1, `(?s)\| out\n.*RUN echo out; exit 7: exit code 7`},
		{"missing file", "FROM scratch\nCOPY nowhere /", "", 1,
			`COPY nowhere /: /nowhere not found in the source of the copy`},
		{"address", "FROM scratch", "nonsense", 2, `"nonsense" is not an engine address`},
		{"nobody", "FROM scratch\nCOPY bake.hcl /", "unix:///nowhere/sock", 5,
			`engine unix:///nowhere/sock: cannot connect`},
		{"platform", "FROM --platform=linux/s390x BASE\nRUN true", "one=" + d.address, 5,
			`no engine supports platform linux/s390x.*runs linux/amd64`},
		{"entitlement", "FROM BASE\nRUN --network=host true", "", 1, `to permit it, add --allow network.host`},
		{"secret", "FROM BASE\nRUN --mount=type=secret,id=x,required true", "", 1, `secret "x" not found`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := builderOn(t, d)
			if test.engine != "" {
				c.env["BAKE_ENGINE"] = strings.TrimPrefix(test.engine, "one=")
			}
			dockerfile := strings.ReplaceAll(test.dockerfile, "BASE", bases+"/busybox:1")
			c.write(t, "bake.hcl", fmt.Sprintf("target \"default\" {\n  dockerfile-inline = %q\n}\n", dockerfile))
			_, stderr, code := c.run(t, "build")
			if code != test.code {
				t.Errorf("exit %d, want %d", code, test.code)
			}
			wantMatch(t, "message", stderr, test.want)
		})
	}
}

// cancelled shows that an interrupted build ends with the code of the signal, long before its step would.
func cancelled(t *testing.T, d *daemon, bases string) {
	c := builderOn(t, d)
	c.write(t, "bake.hcl", fmt.Sprintf("target \"default\" {\n"+
		"  dockerfile-inline = \"FROM %s/busybox:1\\nRUN echo go; sleep 100000\"\n}\n", bases))
	cmd := bakeCommand(t, "build", "--progress=plain")
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "BAKE_CACHE_DIR="+c.cache, "BAKE_ENGINE="+d.address)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(untilDeadline(t), func() { _ = cmd.Process.Kill() })
	interrupted := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if !interrupted && strings.HasSuffix(lines.Text(), " go") {
			interrupted = true
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // the exit code is checked
	if code := cmd.ProcessState.ExitCode(); code != exitSignal+int(syscall.SIGINT) || !interrupted {
		t.Errorf("exit %d", code)
	}
}

// remoteCaches shows that a daemon imports what another one exported to caches of type registry, local and inline.
func remoteCaches(t *testing.T, d *daemon, bases string) {
	_, address := serveLogged(t)
	c := newCLI(t)
	project := ""
	for name, cache := range map[string]string{
		"reg": fmt.Sprintf(`cache-to = ["type=registry,ref=%[1]s/cache:1,mode=max"]`+"\n  "+
			`cache-from = ["type=registry,ref=%[1]s/cache:1"]`, address),
		"dir":    `cache-to = ["type=local,dest=kept"]` + "\n  " + `cache-from = ["type=local,src=kept"]`,
		"inline": fmt.Sprintf(`cache-to = ["type=inline"]`+"\n  "+`cache-from = ["%s/inline:1"]`, address),
	} {
		project += fmt.Sprintf(`target %[1]q {
  dockerfile-inline = <<EOT
FROM %[2]s/busybox:1
RUN echo %[1]s; cat /proc/sys/kernel/random/uuid >/uuid
EOT
  tags = ["%[3]s/%[1]s:1"]
  output = ["type=registry", "type=oci,dest=out/%[1]s.tar"]
  %[4]s
}
`, name, bases, address, cache)
	}
	c.write(t, "bake.hcl", project)
	names := []string{"reg", "dir", "inline"}
	uuids := func(engine string) map[string]string {
		c.ok(t, slices.Concat([]string{"build", "--allow=fs=*", "--engine", engine}, names)...)
		all := map[string]string{}
		for _, name := range names {
			text, err := executortest.ReadImage(filepath.Join(c.dir, "out", name+".tar"))
			if err != nil {
				t.Fatal(err)
			}
			all[name] = regexp.MustCompile(`(?m)^.* /?uuid$`).FindString(text)
		}
		return all
	}
	first, second := uuids(d.address), uuids(startDaemon(t, "").address)
	for _, name := range names {
		if first[name] == "" || first[name] != second[name] {
			t.Errorf("%s: the second daemon built %q, the first %q", name, second[name], first[name])
		}
	}
}

// privateBase shows that the daemon pulls a base with the credentials of the user.
func privateBase(t *testing.T, d *daemon) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var asked sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != "secret-of-mine" {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		asked.Store(r.UserAgent(), true)
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	c := builderOn(t, d)
	c.env["DOCKER_CONFIG"] = c.dir
	c.write(t, "config.json", fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0LW9mLW1pbmU="}}}`, address))
	t.Setenv("DOCKER_CONFIG", c.dir)
	image, err := crane.Pull(serveBases(t)+"/busybox:1", crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, address+"/private:1", crane.Insecure); err != nil {
		t.Fatal(err)
	}
	c.write(t, "bake.hcl", fmt.Sprintf("target \"default\" {\n  dockerfile-inline = \"FROM %s/private:1\\nRUN true\"\n"+
		"}\n", address))
	c.ok(t, "build")
	daemons := 0
	asked.Range(func(agent, _ any) bool {
		if strings.Contains(agent.(string), "buildkit") {
			daemons++
		}
		return true
	})
	if daemons == 0 {
		t.Error("the daemon did not pull the base")
	}
}
