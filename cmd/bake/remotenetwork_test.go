package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestRemoteReachesNoLocalServer shows that neither ADD nor a context of a remote definition reaches another server of
// this machine, unless it is permitted, and that the server of the definition is reached.
func TestRemoteReachesNoLocalServer(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	var requests atomic.Int32
	victim := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = w.Write(archive(t, map[string]string{"a.txt": "hunter22"}))
	}))
	defer victim.Close()
	at := strings.TrimPrefix(victim.URL, "http://")
	_, port, _ := strings.Cut(at, ":")
	site.files["a.txt"] = []byte("a")
	site.redirects["moved"] = victim.URL + "/secret"
	target := func(attributes, dockerfile string) string {
		return fmt.Sprintf("target \"default\" {\n  output = [\"type=cacheonly\"]\n  dockerfile-inline = %q\n  %s\n}\n",
			dockerfile, attributes)
	}
	for name, c := range map[string]struct {
		definition string
		permitted  int // the exit code with --allow network.local
	}{
		"ADD":                {target("", "FROM scratch\nADD "+victim.URL+"/x /x\n"), 0},
		"ADD by name":        {target("", "FROM scratch\nADD http://localhost:"+port+"/x /x\n"), 0},
		"ADD by 0.0.0.0":     {target("", "FROM scratch\nADD http://0.0.0.0:"+port+"/x /x\n"), 0},
		"ADD mapped":         {target("", "FROM scratch\nADD http://[::ffff:127.0.0.1]:"+port+"/x /x\n"), 0},
		"ADD of a redirect":  {target("", "FROM scratch\nADD "+site.url+"/files/moved /x\n"), 0},
		"ADD of git":         {target("", "FROM scratch\nADD "+victim.URL+"/x.git#main /x\n"), 5},
		"context":            {target("context = \""+victim.URL+"/x.tar.gz\"", "FROM scratch\nCOPY . /\n"), 0},
		"context of git":     {target("context = \""+victim.URL+"/x.git\"", "FROM scratch\nCOPY . /\n"), 5},
		"redirected context": {target("context = \""+site.url+"/files/moved\"", "FROM scratch\nCOPY . /\n"), 0},
		"named context": {target("contexts = { x = \""+victim.URL+"/x.tar.gz\" }",
			"FROM scratch\nCOPY --from=x . /\n"), 0},
	} {
		site.files["bake.hcl"] = []byte(c.definition)
		dir, cache := t.TempDir(), t.TempDir()
		code, stdout, stderr := runIn(t, dir, cache, "build", "--progress=none", site.url+"/files/bake.hcl")
		if code != 2 || !strings.Contains(stderr, "--allow network.local") || !strings.Contains(stderr, ":"+port) {
			t.Errorf("%s: exit %d\n%s%s", name, code, stdout, stderr)
		}
		if n := requests.Swap(0); n != 0 {
			t.Errorf("%s: %d requests", name, n)
		}
		code, stdout, stderr = runIn(t, dir, cache, "build", "--progress=none", "--allow", "network.local",
			site.url+"/files/bake.hcl")
		if code != c.permitted || requests.Swap(0) == 0 {
			t.Errorf("%s, permitted: exit %d\n%s%s", name, code, stdout, stderr)
		}
	}
	permitsItsHost(t, site, victim.URL, &requests, target)
	limitsImages(t, site, victim.URL, &requests)
}

// limitsImages shows that a Dockerfile which `image build` downloads is limited like a remote project.
func limitsImages(t *testing.T, site *remoteSite, victim string, requests *atomic.Int32) {
	t.Helper()
	dir, cache := t.TempDir(), t.TempDir()
	build := func(dockerfile string, flags ...string) (int, string) {
		site.files["image.tar"] = archive(t, map[string]string{"Dockerfile": dockerfile})
		args := append([]string{"image", "build", "--progress=none", "-o", "type=cacheonly"}, flags...)
		requests.Store(0)
		code, _, stderr := runIn(t, dir, cache, append(args, site.url+"/files/image.tar")...)
		return code, stderr
	}
	local := "FROM scratch\nADD " + victim + "/x /x\n"
	if code, stderr := build(local); code != 2 || requests.Load() != 0 || !strings.Contains(stderr, "network.local") {
		t.Error("an image by URL:", code, requests.Load(), stderr)
	}
	if code, stderr := build("FROM scratch\nADD " + site.url + "/files/a.txt /\n"); code != 0 {
		t.Error("the host of an image:", code, stderr)
	}
	if code, stderr := build(local, "--allow", "network.local"); code != 0 || requests.Load() == 0 {
		t.Error("an image by URL, permitted:", code, stderr)
	}
}

// permitsItsHost shows that the host of a definition is reached, but not one to which it redirects, and that a project
// of this machine is not limited.
func permitsItsHost(
	t *testing.T, site *remoteSite, victim string, requests *atomic.Int32, target func(_, _ string) string,
) {
	t.Helper()
	site.files["bake.hcl"] = []byte(target("", "FROM scratch\nADD "+site.url+"/files/a.txt /\n"))
	dir, cache := t.TempDir(), t.TempDir()
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none", site.url+"/files/bake.hcl"); code != 0 {
		t.Error("the host of the definition:", code, stderr)
	}
	site.redirects["bake.hcl"] = victim + "/bake.hcl"
	code, _, stderr := runIn(t, dir, cache, "build", "--progress=none", site.url+"/files/bake.hcl")
	if code != 2 || requests.Load() != 0 || !strings.Contains(stderr, "--allow network.local") {
		t.Error("a definition that is redirected:", code, requests.Load(), stderr)
	}
	writeFile(t, dir+"/bake.hcl", target("", "FROM scratch\nADD "+victim+"/x /x\n"))
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none"); code != 0 {
		t.Error("a project of this machine:", code, stderr)
	}
}
