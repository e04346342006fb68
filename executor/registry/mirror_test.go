package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// placesConfig is the registries.conf of TestConfigPlaces.
const placesConfig = `
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.local:5000/hub"
insecure = true
[[registry.mirror]]
location = "digests.local"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.local"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "*.corp.example"

[[registry]]
location = "corp.example/team"
mirror-by-digest-only = true
[[registry.mirror]]
location = "fast.corp.example/t"

[[registry]]
prefix = "old.example/a"
location = "new.example:8443/b"
insecure = false

[[registry]]
location = "bad.example"
blocked = true
`

// TestConfigPlaces checks where images are pulled from, by reference.
func TestConfigPlaces(t *testing.T) {
	conf, err := ParseConfig(placesConfig)
	if err != nil {
		t.Fatal(err)
	}
	const at = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for ref, want := range map[string]string{
		"busybox": "insecure mirror.local:5000/hub/library/busybox, tags.local/library/busybox, " +
			"index.docker.io/library/busybox",
		"busybox" + at: "insecure mirror.local:5000/hub/library/busybox, digests.local/library/busybox, " +
			"index.docker.io/library/busybox",
		"a.corp.example:5000/x":    "a.corp.example:5000/x",
		"corp.example/team/x":      "corp.example/team/x",
		"corp.example/teams/x":     "corp.example/teams/x",
		"corp.example/team/x" + at: "fast.corp.example/t/x, corp.example/team/x",
		"old.example/a/x:1":        "new.example:8443/b/x",
		"old.example/ab/x:1":       "old.example/ab/x",
		"localhost:5000/x":         "plain localhost:5000/x",
		"127.3.2.1:5000/x":         "plain 127.3.2.1:5000/x",
		"[::1]:5000/x":             "plain [::1]:5000/x",
		"10.0.0.1:5000/x":          "10.0.0.1:5000/x",
		"localhost.example/x":      "localhost.example/x",
	} {
		i, err := parseImage(ref)
		if err != nil {
			t.Fatal(err)
		}
		places, err := conf.pulls(i)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range places {
			s := e.String()
			if e.plain {
				s = "plain " + s
			}
			if e.insecure {
				s = "insecure " + s
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: %s", ref, diff)
		}
	}
	_, err = New(Options{Config: conf}).Resolve(context.Background(), "bad.example/x", amd64)
	contains(t, asError(t, err), "bad.example/x", "registries.conf blocks")
}

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"[[registry]]\nlocation = 3":                     "line 2",
		"[[registry]]\nprefix = \"a.example\"":           "location is missing",
		"[[registry]]\nlocation = \"https://a.example\"": "without http",
		"[[registry]]\nlocation = \"a b\"":               "not a host",
		"[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"m\"\n" +
			"pull-from-mirror = \"some\"": "expected all",
	} {
		if _, err := ParseConfig(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", text, want, err)
		}
	}
	path := filepath.Join(t.TempDir(), "registries.conf")
	if err := os.WriteFile(path, []byte("[[registry]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig([]string{path})
	contains(t, asError(t, err), path, "line 2", "CONTAINERS_REGISTRIES_CONF")
}

func TestConfigPaths(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(home, ".config", "containers", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := map[string]string{"HOME": home}
	getenv := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	if got := ConfigPaths(getenv); got[0] != "/etc/containers/registries.conf" {
		t.Errorf("without a file of the user's: %q", got)
	}
	own := write("registries.conf", "[[registry]]\nlocation = \"a.example\"\nblocked = true\n[[registry]]\nlocation "+
		"= \"b.example\"\n")
	late := write("registries.conf.d/50-x.conf", "[[registry]]\nlocation = \"a.example\"\n")
	got := ConfigPaths(getenv)
	if got[0] != own || got[len(got)-1] != late {
		t.Errorf("with files of the user's: %q", got)
	}
	conf, err := LoadConfig([]string{own, filepath.Join(home, "none"), late})
	if err != nil || len(conf.Registries) != 2 || conf.Registries[1].Blocked {
		t.Errorf("%+v, %v", conf, err)
	}
	env["CONTAINERS_REGISTRIES_CONF"] = "/x"
	if diff := cmp.Diff([]string{"/x"}, ConfigPaths(getenv)); diff != "" {
		t.Error(diff)
	}
}

func TestMirrorFallback(t *testing.T) {
	origin, mirror := newFake(t, nil), newFake(t, nil)
	image := newImage(t, 1)
	put(t, origin, "x:1", image)
	conf := &Config{Registries: []Registry{{
		Prefix: "registry.example", Location: origin.host,
		Mirrors: []Mirror{{Location: "127.0.0.1:1/nobody"}, {Location: mirror.host}},
	}}}
	secret := keys{"registry.example": {Username: "me", Password: "hunter22"},
		origin.host: {Username: "me", Password: "hunter22"}}
	c := newTestClient(t, func(o *Options) { o.Config, o.Keychain = conf, secret })
	got, err := c.Resolve(context.Background(), "registry.example/x:1", amd64)
	if err != nil {
		t.Fatal(err)
	}
	if got.Ref != "registry.example/x:1" {
		t.Errorf("the reference is %s: it must not contain a mirror", got.Ref)
	}
	for _, r := range mirror.requests() {
		if r.auth != "" {
			t.Errorf("the mirror got the registry's credentials: %s %s", r.method, r.path)
		}
	}
	asked := len(mirror.requests())
	desc, _ := layerDesc(t, image)
	if _, err := readBlob(c, "registry.example/x:1", desc); err != nil {
		t.Fatal(err)
	}
	if len(mirror.requests()) != asked {
		t.Error("the blob was requested from the mirror that lacks the image")
	}

	_, err = c.Resolve(context.Background(), "registry.example/y:1", amd64)
	e := asError(t, err)
	if e.Status != 404 {
		t.Errorf("status %d", e.Status)
	}
	contains(t, e, "127.0.0.1:1: it cannot be reached", mirror.host+": it responded 404", origin.host+
		": it responded 404")
}

func TestMirrorWithWrongContentIsSkipped(t *testing.T) {
	origin, mirror := newFake(t, nil), newFake(t, nil)
	image := newImage(t, 1)
	hash := put(t, origin, "x:1", image)
	mirror.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", hash.String())
		fmt.Fprint(w, `{"schemaVersion":2,"config":{},"layers":[]}`)
		return true
	})
	conf := &Config{Registries: []Registry{{Prefix: "registry.example", Location: origin.host,
		Mirrors: []Mirror{{Location: mirror.host}}}}}
	c := newTestClient(t, func(o *Options) { o.Config = conf })
	got, err := c.Resolve(context.Background(), "registry.example/x@"+hash.String(), amd64)
	if err != nil || got.Digest.String() != hash.String() {
		t.Errorf("%+v, %v", got.Digest, err)
	}
}

func TestTLS(t *testing.T) {
	f := newFake(t, nil)
	put(t, f, "x:1", newImage(t, 1))
	secure := httptest.NewUnstartedServer(f.Config.Handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	host := strings.TrimPrefix(secure.URL, "https://")
	yes, no := true, false
	resolve := func(insecure *bool, change ...func(*Options)) error {
		change = append(change, func(o *Options) {
			o.Config = &Config{Registries: []Registry{{Prefix: "registry.example", Location: host, Insecure: insecure}}}
		})
		_, err := newTestClient(t, change...).Resolve(context.Background(), "registry.example/x:1", amd64)
		return err
	}
	err := resolve(&no)
	e := asError(t, err)
	contains(t, e, "certificate is not trusted", "insecure = true")
	if e.Temporary() {
		t.Error("a bad certificate is not temporary")
	}
	if err := resolve(&yes); err != nil {
		t.Error(err)
	}
	trusting := secure.Client().Transport.(*http.Transport).Clone()
	trusting.TLSClientConfig = &tls.Config{RootCAs: trusting.TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}
	if err := resolve(&no, func(o *Options) { o.Transport = trusting }); err != nil {
		t.Error(err)
	}
	host = f.host
	if err := resolve(&no, withKey(f, authn.AuthConfig{Username: "me", Password: "hunter22"})); err == nil {
		t.Error("plain HTTP was spoken where registries.conf forbids it")
	} else {
		contains(t, err, "speaks plain HTTP", "insecure = true")
	}
}

// TestMirrorFailureIsNotTheRegistrys: the endpoint that served last is tried first, so the registry's own failure need
// not be the last one. It alone decides what kind of error the whole is.
func TestMirrorFailureIsNotTheRegistrys(t *testing.T) {
	for _, served := range []string{"the registry", "the mirror"} {
		var broken atomic.Bool
		origin := newFake(t, nil)
		mirror := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
			if broken.Load() || served == "the registry" {
				w.WriteHeader(http.StatusForbidden)
				return true
			}
			return false
		})
		put(t, origin, "x:1", newImage(t, 1))
		if served == "the mirror" {
			put(t, mirror, "x:1", newImage(t, 1))
		}
		conf := &Config{Registries: []Registry{{
			Prefix: "registry.example", Location: origin.host, Mirrors: []Mirror{{Location: mirror.host}},
		}}}
		c := newTestClient(t, func(o *Options) { o.Config = conf })
		if _, err := c.Resolve(t.Context(), "registry.example/x:1", amd64); err != nil {
			t.Fatal(err)
		}
		broken.Store(true)
		_, err := c.Resolve(t.Context(), "registry.example/x:gone", amd64)
		e := asError(t, err)
		if e.Status != http.StatusNotFound || !e.NotFound() || e.Registry != origin.host {
			t.Errorf("%s served before: status %d of %s, want 404 of the registry", served, e.Status, e.Registry)
		}
		contains(t, e, mirror.host+": it responded 403", origin.host+": it responded 404")
	}
}
