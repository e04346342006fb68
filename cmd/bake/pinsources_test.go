package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPinSources shows that git repositories and HTTP files are pinned the way images are, as contexts too.
func TestPinSources(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{"a.txt": "one", "Dockerfile": "FROM scratch\nCOPY a.txt /context\n" +
		"COPY --from=more context /more\n"})
	first := git(t, site.work, "rev-parse", "HEAD")
	site.files["tool"], site.files["other"] = []byte("1"), []byte("1")
	s := &pinSite{t: t, dir: t.TempDir(), cache: t.TempDir(), host: strings.TrimPrefix(site.url, "http://")}
	s.write("bake.hcl", `group "default" { targets = ["add", "context"] }
target "add" {
  dockerfile-inline = "FROM scratch\nADD http://HOST/repo.git#main /r\nADD http://HOST/files/tool /tool"
  output = ["type=tar,dest=add.tar"]
}
target "context" {
  context  = "http://HOST/repo.git#main"
  contexts = { more = "http://HOST/files/other", unused = "http://HOST/files/nosuch" }
  output   = ["type=tar,dest=context.tar"]
}
`)
	build := func(args ...string) string {
		t.Helper()
		s.bake(0, "", append([]string{"build", "--progress=none"}, args...)...)
		add, context := tarFiles(t, filepath.Join(s.dir, "add.tar")), tarFiles(t, filepath.Join(s.dir, "context.tar"))
		return add["r/a.txt"] + " " + add["tool"] + " " + context["context"]
	}
	s.bake(0, "+ http://HOST/repo.git#main "+first, "pin")
	lock := s.lock()
	if d := cmp.Diff([]string{site.url + "/repo.git#main", site.url + "/files/other", site.url + "/files/tool"},
		lock.Keys()); d != "" {
		t.Error(d)
	}
	if got := build("--frozen"); got != "one 1 one" {
		t.Errorf("built %q", got)
	}
	site.commit(t, "main", map[string]string{"a.txt": "two"})
	site.files["tool"] = []byte("2")
	if got := build("--locked"); got != "one 1 one" {
		t.Errorf("after a change, with the lock, built %q", got)
	}
	if got := build("--offline"); got != "one 1 one" {
		t.Errorf("offline built %q", got)
	}
	s.bake(3, "/files/tool: the content changed: ", "verify", "--online")
	out, _ := s.bake(6, "2 pins out of date", "outdated", "--exit-code")
	wantMatch(t, "what is outdated", out, `(?s)/repo.git#main +`+first[:12]+` .*add, context\n.*/files/tool `)
	s.bake(0, "2 pins moved", "update")
	if got := build("--frozen"); got != "two 2 two" {
		t.Errorf("after the update built %q", got)
	}
	lock = s.lock()
	delete(lock.HTTP, site.url+"/files/tool")
	if err := lock.Write(s.dir); err != nil {
		t.Fatal(err)
	}
	s.bake(3, "bake.lock has no entry for http://HOST/files/tool", "build", "--frozen", "--progress=none")
	s.bake(0, "+ http://HOST/files/tool sha256:", "pin", "files/tool")
}
