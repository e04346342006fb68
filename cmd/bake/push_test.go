package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// closedRegistry is a registry that requires credentials and records its requests.
type closedRegistry struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	got  []string // method and path
}

// registryUser and registryPassword are the credentials of test servers.
const registryUser, registryPassword = "me", "hunter22"

// newClosedRegistry starts the registry; it ends with the test.
func newClosedRegistry(t *testing.T) *closedRegistry {
	t.Helper()
	r := &closedRegistry{}
	serve := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != registryUser || password != registryPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="closed"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.mu.Lock()
		r.got = append(r.got, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		serve.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	r.host = strings.TrimPrefix(r.URL, "http://")
	return r
}

// requests returns the requests since the last call.
func (r *closedRegistry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// login writes credentials for a host to a file below the home directory, in the format of docker login.
func (c *cli) login(t *testing.T, host, file string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + registryPassword))
	writeFile(t, filepath.Join(c.cache, "home", file), fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth))
	c.env["HOME"] = filepath.Join(c.cache, "home")
}

const twoPlatforms = `
target "one" {
  context = "."
  dockerfile-inline = "FROM scratch\nCOPY bake.hcl /one\n"
  platforms = ["linux/amd64", "linux/arm64"]
  tags = ["HOST/team/one:1"]
}
target "two" {
  context = "."
  dockerfile-inline = "FROM scratch\nCOPY bake.hcl /one\nCOPY bake.hcl /two\n"
  tags = ["HOST/two:1", "HOST/two:2"]
}
group "default" { targets = ["one", "two"] }
`

// TestImagePush shows that images of the store arrive complete, with their digests, under all names. Existing blobs are
// not sent again, and nothing is sent without credentials.
func TestImagePush(t *testing.T) {
	needSandbox(t)
	r := newClosedRegistry(t)
	c := newCLI(t)
	c.write(t, "bake.hcl", strings.ReplaceAll(twoPlatforms, "HOST", r.host))
	c.ok(t, "build")
	names := []string{r.host + "/team/one:1", r.host + "/two:1", r.host + "/two:2"}
	push := append([]string{"image", "push"}, names...)
	c.env["HOME"] = t.TempDir()
	_, stderr, code := c.run(t, push...)
	if code != 5 || !strings.Contains(stderr, "no credentials for "+r.host) || len(r.requests()) != 0 {
		t.Fatalf("without credentials: exit %d\n%s", code, stderr)
	}
	c.login(t, r.host, ".docker/config.json")
	stdout, _ := c.ok(t, push...)
	keys := crane.WithAuth(basic())
	for _, ref := range names {
		digest, err := crane.Digest(ref, crane.Insecure, keys)
		if err != nil {
			t.Fatal(err)
		}
		wantMatch(t, "name and digest", stdout, ref+" "+digest)
	}
	parsed, err := name.ParseReference(names[0], name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(parsed, remote.WithAuth(basic()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("another client finds the index damaged: %v", err)
	}
	r.requests()
	c.ok(t, push...)
	if got := r.requests(); len(got) != 3 {
		t.Errorf("unchanged images cost %q; want one request a tag", got)
	}

	// Podman's file, for a part of the registry only; one platform of an index.
	c.login(t, r.host+"/team", ".config/containers/auth.json")
	c.env["HOME"] = filepath.Join(c.cache, "podman")
	auth := base64.StdEncoding.EncodeToString([]byte(registryUser + ":" + registryPassword))
	writeFile(t, filepath.Join(c.cache, "podman/.config/containers/auth.json"),
		fmt.Sprintf(`{"auths":{"%s/team":{"auth":%q}}}`, r.host, auth))
	c.ok(t, "image", "tag", names[0], r.host+"/team/arm:1", r.host+"/other:1")
	c.ok(t, "image", "push", "--platform", "linux/arm64", r.host+"/team/arm:1")
	config, err := crane.Config(r.host+"/team/arm:1", crane.Insecure, keys)
	if err != nil || !strings.Contains(string(config), `"architecture":"arm64"`) {
		t.Errorf("%s, %v", config, err)
	}
	if _, _, code := c.run(t, "image", "push", r.host+"/other:1"); code != 5 {
		t.Errorf("credentials for a part of a registry were used for all of it: exit %d", code)
	}
}

// TestImagePushOfParts shows that only the platforms in the store can be pushed, and that the message names the flag.
func TestImagePushOfParts(t *testing.T) {
	needSandbox(t)
	r := newClosedRegistry(t)
	c := newCLI(t)
	c.login(t, r.host, ".docker/config.json")
	c.write(t, "bake.hcl", strings.ReplaceAll(twoPlatforms, "HOST", r.host))
	ref := r.host + "/team/one:1"
	c.ok(t, "build", "--push", "one")
	c.cache = t.TempDir()
	c.ok(t, "image", "pull", ref)
	_, stderr, code := c.run(t, "image", "push", ref)
	if code != 2 || !strings.Contains(stderr, "push with --platform linux/amd64") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	c.ok(t, "image", "push", "--platform", "linux/amd64", ref)
	if _, stderr, code = c.run(t, "image", "push", "nothing:1"); code != 2 ||
		!strings.Contains(stderr, "no image nothing:1") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// TestLoadIndex shows that a loaded archive with two platforms is pushed with the same digest.
func TestLoadIndex(t *testing.T) {
	needSandbox(t)
	r := newClosedRegistry(t)
	c := newCLI(t)
	c.login(t, r.host, ".docker/config.json")
	c.write(t, "bake.hcl", strings.ReplaceAll(twoPlatforms, "HOST", r.host))
	ref := r.host + "/team/one:1"
	c.ok(t, "build", "one", "--set", "one.output=type=oci,dest=one.tar")
	c.cache = t.TempDir()
	stdout, _ := c.ok(t, "image", "load", "-i", "one.tar")
	c.login(t, r.host, ".docker/config.json")
	c.ok(t, "image", "push", ref)
	digest, err := crane.Digest(ref, crane.Insecure, crane.WithAuth(basic()))
	if err != nil {
		t.Fatal(err)
	}
	wantMatch(t, "name and digest", stdout, ref+" "+digest)
}

// basic returns the credentials of a closed registry.
func basic() authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{Username: registryUser, Password: registryPassword})
}

// openRegistry starts a registry without authentication and returns HOST:PORT.
func openRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// TestNameCanonical shows that with name-canonical=true the local store also has the image as TAG@DIGEST, as with
// BuildKit. That name stays when the tag moves.
func TestNameCanonical(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	project := func(text string) string {
		return "target \"default\" {\n  dockerfile-inline = \"FROM scratch\\nLABEL is=" + text +
			"\"\n  tags = [\"kept/it:1\"]\n  output = [\"type=image,name-canonical=true\"]\n}\n"
	}
	var names []string
	for _, text := range []string{"first", "second"} {
		c.write(t, "bake.hcl", project(text))
		c.ok(t, "build")
		stdout, _ := c.ok(t, "image", "inspect", "kept/it:1")
		digest := regexp.MustCompile(`"digest": "(sha256:\w+)"`).FindStringSubmatch(stdout)
		if digest == nil {
			t.Fatal(stdout)
		}
		names = append(names, "kept/it:1@"+digest[1])
	}
	for i, text := range []string{"first", "second"} {
		stdout, _ := c.ok(t, "image", "inspect", names[i])
		wantMatch(t, names[i], stdout, `"is": "`+text+`"`)
	}
	c.ok(t, "image", "rm", names[0])
	if stdout, _, code := c.run(t, "image", "inspect", names[0]); code != 2 {
		t.Errorf("a removed name was found: exit %d\n%s", code, stdout)
	}
	c.ok(t, "image", "inspect", "kept/it:1")
	c.ok(t, "cache", "check")
}
