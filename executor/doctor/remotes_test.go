package doctor

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/registry"
)

// dead returns an address on which nothing listens.
func dead(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silent returns an address that accepts connections and never answers.
func silent(t *testing.T, kind, address string) string {
	t.Helper()
	l, err := net.Listen(kind, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String() // the kernel accepts
}

// serve starts a registry that wraps a real one, and returns its address.
func serve(t *testing.T, wrap func(w http.ResponseWriter, r *http.Request, next http.Handler)) string {
	t.Helper()
	next := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { wrap(w, r, next) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// clientFor returns a client with the tables of a registries.conf and the credentials of a config.json.
func clientFor(t *testing.T, conf, auth string) *registry.Client {
	t.Helper()
	c, err := registry.ParseConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) {
		return map[string]string{"DOCKER_CONFIG": dir}[name], name == "DOCKER_CONFIG"
	}
	return registry.New(registry.Options{
		Config: c, Keychain: registry.NewKeychain(env), Stall: time.Second,
		Backoff: func(int) time.Duration { return time.Millisecond },
	})
}

// only returns the finding of the only registry.
func only(t *testing.T, c *registry.Client, images ...string) Finding {
	t.Helper()
	checks := registries(c, images, false)
	if len(checks) != 1 {
		t.Fatalf("%d registries, want 1", len(checks))
	}
	return found(t, checks[0])
}

func TestRegistry(t *testing.T) {
	good := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	only(t, clientFor(t, "", "{}"), good+"/a").want(t, OK, "it answers", "")
	only(t, clientFor(t, "[[registry]]\nlocation = \""+good+"\"", "{}")).want(t, OK, "it answers", "")

	none := dead(t)
	only(t, clientFor(t, "", "{}"), none+"/a").
		want(t, Warning, "cannot be reached", "check that the registry is running")
	only(t, clientFor(t, "[[registry]]\nlocation = \""+none+"\"", "{}")).want(t, Failure, "connection refused", "check")
	hangs := silent(t, "tcp", "127.0.0.1:0")
	start := time.Now()
	only(t, clientFor(t, "[[registry]]\nlocation = \""+hangs+"\"", "{}")).want(t, Failure, "no answer within", "mirror")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	busy := serve(t, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(503) })
	only(t, clientFor(t, "[[registry]]\nlocation = \""+busy+"\"", "{}")).want(t, Failure, "503", "try again later")
	blocked := clientFor(t, "[[registry]]\nlocation = \""+none+"\"\nblocked = true", "{}")
	if checks := registries(blocked, nil, false); len(checks) > 0 {
		t.Errorf("a blocked registry is checked: %+v", checks)
	}
	for _, c := range registries(clientFor(t, "", "{}"), []string{none + "/a"}, true) {
		found(t, c).want(t, Skipped, "--offline is set", "")
	}
}

// TestMirror shows that a mirror that does not answer is a warning, since builds use the next source.
func TestMirror(t *testing.T) {
	good := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	conf := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = %q\n"+
		"[[registry.mirror]]\nlocation = \"%s/m\"\n[[registry.mirror]]\nlocation = %q\n", good, good, dead(t))
	checks := registries(clientFor(t, conf, "{}"), []string{"busybox", "docker.io/library/alpine:3"}, false)
	if len(checks) != 2 || checks[0].Name != "registry" || checks[1].Name != "mirror" {
		t.Fatalf("%+v", checks)
	}
	found(t, checks[0]).want(t, OK, "it answers", "")
	found(t, checks[1]).want(t, Warning, "the other sources of docker.io are used", "check")

	// A registry that does not answer is a warning too if one of its mirrors does: builds work.
	for mirror, want := range map[string]Status{good: Warning, dead(t): Failure} {
		conf := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n",
			dead(t), mirror)
		found(t, registries(clientFor(t, conf, "{}"), nil, false)[0]).want(t, want, "connection refused", "check")
	}
}

// TestRegistryCredentials shows credentials that a registry accepts and that it does not. Neither is shown.
func TestRegistryCredentials(t *testing.T) {
	locked := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "right-secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	conf := "[[registry]]\nlocation = \"" + locked + "\""
	auth := func(secret string) string {
		return fmt.Sprintf(`{"auths":{%q:{"username":"me","password":%q}}}`, locked, secret)
	}
	only(t, clientFor(t, conf, "{}")).want(t, OK, "it answers", "")
	only(t, clientFor(t, conf, auth("right-secret"))).want(t, OK, "accepts the credentials of me", "")
	f := only(t, clientFor(t, conf, auth("wrong-secret")))
	f.want(t, Failure, "401 Unauthorized", "docker login "+locked)
	if strings.Contains(f.Detail+f.Fix, "secret") {
		t.Errorf("%q shows the password", f.Detail)
	}
}

// TestRegistryClock shows a registry whose clock is wrong, or right where this machine's is wrong.
func TestRegistryClock(t *testing.T) {
	late := serve(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Date", time.Now().Add(-3*time.Hour).UTC().Format(http.TimeFormat))
		next.ServeHTTP(w, r)
	})
	only(t, clientFor(t, "", "{}"), late+"/a").
		want(t, Warning, "its clock differs from this machine's by 3h0m0s", "NTP")
}

// TestManyRegistries shows that a project that names many registries does not cause as many requests.
func TestManyRegistries(t *testing.T) {
	var images []string
	for i := range 200 {
		images = append(images, fmt.Sprintf("r%d.example.com/a", i))
	}
	checks := registries(clientFor(t, "", "{}"), images, true)
	if len(checks) != maxPlaces+1 {
		t.Fatalf("%d checks", len(checks))
	}
	found(t, checks[maxPlaces]).want(t, Skipped, "168 more are not checked", "")
}

// engineAt serves answers of a Docker engine on a socket.
func engineAt(t *testing.T, answers map[string]string) string {
	t.Helper()
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusInternalServerError)
			text = `{"message":"the daemon is shutting down"}`
		}
		_, _ = io.WriteString(w, text)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return path
}

// shortDir returns a directory whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "doc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestDocker(t *testing.T) {
	check := func(env map[string]string) Finding {
		t.Helper()
		return found(t, dockerEngine(func(name string) string { return env[name] }))
	}
	good := engineAt(t, map[string]string{
		"/version": `{"Version":"29.1"}`, "/info": `{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}`,
	})
	check(map[string]string{"DOCKER_HOST": "unix://" + good}).
		want(t, OK, "version 29.1 at unix://"+good+", with the containerd", "")
	old := engineAt(t, map[string]string{
		"/version": `{"Version":"20.10"}`, "/info": `{"DriverStatus":[["Backing","extfs"]]}`,
	})
	check(map[string]string{"DOCKER_HOST": "unix://" + old}).want(t, OK, "with its classic image store", "")

	none := filepath.Join(shortDir(t), "s")
	check(map[string]string{"DOCKER_HOST": "unix://" + none}).
		want(t, Failure, "no such file or directory; start it", "")
	check(map[string]string{"DOCKER_HOST": "tcp://" + dead(t)}).want(t, Failure, "connection refused; start it", "")
	check(map[string]string{"DOCKER_HOST": "ssh://x"}).want(t, Failure, "are not supported; use unix://", "")
	check(map[string]string{"DOCKER_CONTEXT": "gone", "DOCKER_CONFIG": t.TempDir()}).
		want(t, Failure, `docker context "gone" does not exist; list`, "")
	broken := engineAt(t, nil)
	check(map[string]string{"DOCKER_HOST": "unix://" + broken}).want(t, Failure, "shutting down; restart it", "")
	start := time.Now()
	check(map[string]string{"DOCKER_HOST": "unix://" + silent(t, "unix", filepath.Join(shortDir(t), "s"))}).
		want(t, Failure, "no answer", "")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := os.Lstat("/var/run/docker.sock"); err != nil {
		check(nil).want(t, Skipped, "only outputs of type=docker need one", "")
	}
}

func TestEngine(t *testing.T) {
	for address, want := range map[string]string{
		"tcp://" + dead(t):                             "connection refused; start buildkitd there",
		"tcp://" + silent(t, "tcp", "127.0.0.1:0"):     "no answer within",
		"unix://" + filepath.Join(shortDir(t), "gone"): "no such file or directory; start buildkitd there",
		"nonsense": "is not an engine address; use",
	} {
		checks := engines([]buildkitd.Builder{{Address: address}}, false)
		found(t, checks[0]).want(t, Failure, want, "")
		found(t, engines([]buildkitd.Builder{{Address: address}}, true)[0]).want(t, Skipped, "--offline is set", "")
	}
}
