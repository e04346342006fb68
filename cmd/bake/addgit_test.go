package main

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAddGit shows that ADD of a git repository adds the files of the commit that its reference names at each build.
func TestAddGit(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{"a.txt": "one", "sub/b.txt": "b", "sub/run.sh": "#!/bin/sh\n"})
	first := git(t, site.work, "rev-parse", "HEAD")
	repo := site.url + "/repo.git"
	dir, cache := t.TempDir(), t.TempDir()
	build := func(dockerfile string) (int, string) {
		writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\n"+dockerfile+"\n")
		writeFile(t, filepath.Join(dir, "bake.hcl"),
			"target \"default\" {\n  output = [\"type=tar,dest=out.tar\"]\n}\n")
		code, _, stderr := runIn(t, dir, cache, "build", "--progress=none")
		return code, stderr
	}
	for _, c := range []struct {
		dockerfile string
		want       map[string]string
	}{
		{"ADD " + repo + "#main /r",
			map[string]string{"r/a.txt": "one", "r/sub/b.txt": "b", "r/sub/run.sh": "#!/bin/sh\n"}},
		{"ADD " + repo + "#main:sub /r", map[string]string{"r/b.txt": "b", "r/run.sh": "#!/bin/sh\n"}},
		{"ADD --checksum=" + first + " " + repo + "#main:sub /r",
			map[string]string{"r/b.txt": "b", "r/run.sh": "#!/bin/sh\n"}},
		{"ADD " + repo + "#" + first + ":sub /r", map[string]string{"r/b.txt": "b", "r/run.sh": "#!/bin/sh\n"}},
	} {
		if code, stderr := build(c.dockerfile); code != 0 {
			t.Fatalf("%s: %s", c.dockerfile, stderr)
		}
		if d := cmp.Diff(c.want, tarFiles(t, filepath.Join(dir, "out.tar"))); d != "" {
			t.Errorf("%s: want -, got +\n%s", c.dockerfile, d)
		}
	}
	if code, stderr := build("ADD --keep-git-dir=true " + repo + "#main /r"); code != 0 {
		t.Error(stderr)
	} else if _, ok := tarFiles(t, filepath.Join(dir, "out.tar"))["r/.git/HEAD"]; !ok {
		t.Error("--keep-git-dir=true did not keep .git")
	}
	site.commit(t, "main", map[string]string{"a.txt": "two"})
	if code, stderr := build("ADD " + repo + "#main /r"); code != 0 {
		t.Error(stderr)
	} else if got := tarFiles(t, filepath.Join(dir, "out.tar"))["r/a.txt"]; got != "two" {
		t.Errorf("after a commit a.txt is %q", got)
	}
	for dockerfile, want := range map[string]string{
		"ADD " + repo + "#nope /r":                          "no branch or tag nope",
		"ADD " + repo + "#main:nope /r":                     "nope",
		"ADD --checksum=" + first + " " + repo + "#main /r": "not " + first,
		"ADD " + site.url + "/missing.git#main /r":          "missing.git",
	} {
		if code, stderr := build(dockerfile); code != 5 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, want 5 and %q in:\n%s", dockerfile, code, want, stderr)
		}
	}
}

// TestAddGitPassword shows that the credentials of a repository's URL reach its server, also for a submodule on it.
// They are in no file of the image or the cache, and not in the provenance (CVE-2023-26054).
func TestAddGitPassword(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	closed := behindPassword(t, site.url)
	writeFile(t, filepath.Join(site.work, ".gitmodules"), "[submodule \"sub\"]\n\tpath = sub\n\turl = ../repo.git\n")
	site.commit(t, "main", map[string]string{"a.txt": "one"})
	git(t, site.work, "update-index", "--add", "--cacheinfo", "160000,"+git(t, site.work, "rev-parse", "HEAD")+",sub")
	git(t, site.work, "commit", "-q", "-m", "submodule")
	git(t, site.work, "push", "-q", "origin", "main")
	dir, cache := t.TempDir(), t.TempDir()
	repo := strings.Replace(closed, "://", "://"+registryUser+":"+registryPassword+"@", 1) + "/repo.git#main"
	writeFile(t, filepath.Join(dir, "bake.hcl"), strings.ReplaceAll(`target "default" {
  dockerfile = "Dockerfile"
  contexts = { n = "URL" }
  output = ["type=local,dest=out"]
  attest = ["type=provenance,mode=max"]
  args = { REPO = "URL" }
}
`, "URL", repo))
	writeFile(t, filepath.Join(dir, "Dockerfile"),
		"FROM scratch\nARG REPO\nADD --keep-git-dir=true $REPO /r\nCOPY --from=n a.txt /n\n")
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none"); code != 0 {
		t.Fatal(stderr)
	}
	for _, name := range []string{"n", "r/a.txt", "r/sub/a.txt", "r/.git/config", "provenance.json"} {
		if _, err := os.Stat(filepath.Join(dir, "out", name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{filepath.Join(dir, "out", "r"), filepath.Join(cache, "entries"),
		filepath.Join(cache, "layers"), filepath.Join(cache, "statindex")} {
		for path, text := range filesBelow(t, name) {
			if strings.Contains(text, registryPassword) {
				t.Errorf("the password is in %s", filepath.Join(name, path))
			}
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "out/provenance.json"))
	if err != nil {
		t.Fatal(err)
	}
	// mode=max always records the values of build arguments.
	text := strings.ReplaceAll(string(raw), "\"build-arg:REPO\": \""+repo, "")
	if strings.Contains(text, registryPassword) {
		t.Errorf("the password is in the provenance: %s", text)
	}
}

// behindPassword starts a proxy to a server that requires registryUser and registryPassword.
func behindPassword(t *testing.T, at string) string {
	t.Helper()
	target, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != registryUser || password != registryPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// filesBelow returns the contents of the regular files below a directory, by path.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestAddGitStaysOutside shows that a repository adds no files of this machine, and that neither its submodules nor
// its reference become an option of git (CVE-2022-39253, GHSA-vp35-85q5-9f25, GHSA-hw3h-2gp9-cxpv).
func TestAddGitStaysOutside(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	secret := t.TempDir()
	git(t, secret, "init", "-q", "-b", "main")
	writeFile(t, filepath.Join(secret, "secret"), canaryText)
	git(t, secret, "add", "-A")
	git(t, secret, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x")
	commit := git(t, secret, "rev-parse", "HEAD")
	witness := filepath.Join(t.TempDir(), "witness")
	repo := site.url + "/repo.git"
	dir, cache := t.TempDir(), t.TempDir()
	for name, c := range map[string]struct{ submodule, reference, want string }{
		"a submodule of this machine":   {"file://" + secret, "main", "not allowed"},
		"a submodule that is a path":    {secret, "main", "not allowed"},
		"a submodule that is a command": {"ext::sh -c touch% " + witness, "main", "not allowed"},
		"a submodule that is an option": {"--upload-pack=touch " + witness, "main", "ADD"},
		"a reference that is an option": {"", "--upload-pack=touch${IFS}" + witness, "must not start with a dash"},
	} {
		files := map[string]string{"a.txt": "one"}
		if c.submodule != "" {
			files[".gitmodules"] = "[submodule \"sub\"]\n\tpath = sub\n\turl = " + c.submodule + "\n"
		}
		site.commit(t, "main", files)
		if c.submodule != "" {
			git(t, site.work, "update-index", "--add", "--cacheinfo", "160000,"+commit+",sub")
			git(t, site.work, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", name)
			git(t, site.work, "push", "-q", "--force", "origin", "HEAD:main")
		}
		writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nADD "+repo+"#"+c.reference+" /r\n")
		writeFile(t, filepath.Join(dir, "bake.hcl"),
			"target \"default\" {\n  output = [\"type=tar,dest=out.tar\"]\n}\n")
		code, _, stderr := runIn(t, dir, cache, "build", "--progress=none")
		if code == 0 || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit %d, want %q in:\n%s", name, code, c.want, stderr)
		}
		if _, err := os.Lstat(witness); err == nil {
			t.Fatalf("%s: the command ran", name)
		}
	}
	// A path that leads out of the repository means its root.
	git(t, site.work, "rm", "-q", "-r", "--ignore-unmatch", "--cached", "sub", ".gitmodules")
	if err := os.Remove(filepath.Join(site.work, ".gitmodules")); err != nil {
		t.Fatal(err)
	}
	site.commit(t, "main", map[string]string{"a.txt": "one"})
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nADD "+repo+"#main:../../.. /r\n")
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none"); code != 0 {
		t.Fatal(stderr)
	}
	if d := cmp.Diff(map[string]string{"r/a.txt": "one"}, tarFiles(t, filepath.Join(dir, "out.tar"))); d != "" {
		t.Error(d)
	}
}
