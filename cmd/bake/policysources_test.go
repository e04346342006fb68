package main

import (
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPolicySeesMirrors shows that a rule sees the mirror from which the content of a permitted name comes, whether the
// project or the user configured it.
func TestPolicySeesMirrors(t *testing.T) {
	needSandbox(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/team/base:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	const target = "target \"default\" {\n  output = [\"type=cacheonly\"]\n" +
		"  dockerfile-inline = \"FROM registry.example.com/base:1\\n\"\n}\n"
	block := "registry \"registry.example.com\" { mirrors = [\"" + host + "/team\"] }\n"
	rule := func(expression string) string {
		return "policy \"where\" { rule = \"" + expression + "\" }\n"
	}
	here := rule("base.locations.all(l, l.startsWith('registry.example.com/'))")
	for _, c := range []struct {
		name, project string
		code          int
		stderr        string
	}{
		{"permitted by name", rule("base.registry == 'registry.example.com'") + block, 0, ""},
		{"denied by location", here + block, exitPolicy, "policy where: base registry.example.com/base:1"},
		{"denied by location of the source",
			rule("source.locations.all(l, l.startsWith('registry.example.com/'))") + block,
			exitPolicy, "policy where: source registry.example.com/base:1"},
		{"the place of the mirror", rule("'"+host+"/team/base' in base.locations") + block, 0, ""},
	} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "bake.hcl"), c.project+target)
		code, _, stderr := runIn(t, dir, t.TempDir(), "build", "--progress=none")
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, code, c.code, stderr)
		}
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "bake.hcl"), here+target)
	writeFile(t, filepath.Join(dir, ".config/containers/registries.conf"),
		"[[registry]]\nprefix = \"registry.example.com\"\nlocation = \"registry.example.com\"\n"+
			"[[registry.mirror]]\nlocation = \""+host+"/team\"\n")
	code, _, stderr := runIn(t, dir, t.TempDir(), "build", "--progress=none")
	if code != exitPolicy {
		t.Errorf("a mirror of the user: exit %d\n%s", code, stderr)
	}
}

// TestPolicyOfRemoteDefinition shows that rules of a file of the user judge a remote definition.
func TestPolicyOfRemoteDefinition(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	site.files["bake.hcl"] = []byte("target \"default\" {\n  output = [\"type=cacheonly\"]\n" +
		"  dockerfile-inline = \"FROM scratch\\nADD " + site.url + "/files/a.txt /\\n\"\n}\n")
	dir := t.TempDir()
	for rule, want := range map[string]string{
		"source.kind != 'definition' || source.host == 'git.example.com'": "source " + site.url + "/files/bake.hcl",
		"source.kind != 'http' || source.locked":                          "source " + site.url + "/files/a.txt",
	} {
		writeFile(t, filepath.Join(dir, "mine.hcl"), "policy \"mine\" { rule = \""+rule+"\" }\n")
		code, _, stderr := runIn(t, dir, t.TempDir(), "build", "--progress=none", "-f", "bake.hcl", "-f",
			"cwd://mine.hcl",
			site.url+"/files/bake.hcl")
		if code != exitPolicy || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d\n%s", rule, code, stderr)
		}
	}
}
