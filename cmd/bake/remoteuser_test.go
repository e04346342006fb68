package main

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestRemoteAsUser: each command that takes the URL of a project or context does for an ordinary user what it does for
// root.
func TestRemoteAsUser(t *testing.T) {
	user := testUser(t)
	needSandbox(t)
	site := newRemoteSite(t)
	files := map[string]string{
		"bake.hcl":       "target \"default\" {\n  context = \"app\"\n  output = [\"type=tar,dest=out.tar\"]\n}\n",
		"app/Dockerfile": "FROM scratch\nADD a.txt /\n", "app/a.txt": "a", "Dockerfile": "FROM scratch\nADD app /\n",
	}
	site.commit(t, "main", files)
	site.files["all.tar.gz"] = archive(t, files)
	site.files["bake.hcl"] = []byte("target \"default\" {\n  dockerfile-inline = \"FROM scratch\\nWORKDIR /x\"\n}\n")
	site.changed()
	urls := map[string]string{
		"git": site.url + "/repo.git", "archive": site.url + "/files/all.tar.gz", "file": site.url + "/files/bake.hcl",
	}
	commands := append(planning, [][]string{
		{"build", "--progress=none"}, {"build", "--progress=none", "--locked"}, {"build", "--print"},
		{"build", "--list=targets"}, {"build", "--list=variables"}, {"build", "--check"}, {"build", "--call=outline"},
		{"image", "build", "--progress=none", "-o", "type=tar,dest=out.tar"},
	}...)
	for kind, url := range urls {
		for _, args := range commands {
			if kind != "file" || args[0] != "image" {
				t.Run(kind+" "+strings.Join(args, " "), func(t *testing.T) {
					sameForUser(t, user, "", append(slices.Clone(args), url)...)
				})
			}
		}
	}
}

// planning are the commands that plan and build nothing.
var planning = [][]string{
	{"plan"}, {"explain"}, {"graph"}, {"graph", "--format=json", "--by=step"},
	{"graph", "--format=mermaid", "--by=target"},
}

// TestRemoteContextAsUser is TestRemoteAsUser for a local project whose context is an archive at a URL.
func TestRemoteContextAsUser(t *testing.T) {
	user := testUser(t)
	needSandbox(t)
	site := newRemoteSite(t)
	site.files["app.tar.gz"] = archive(t, map[string]string{"Dockerfile": "FROM scratch\nADD a.txt /\n", "a.txt": "a"})
	site.changed()
	url := site.url + "/files/app.tar.gz"
	project := "target \"default\" {\n  context = \"" + url + "\"\n}\n"
	for _, args := range append(planning, [][]string{
		{"build", "--progress=none"}, {"affected", "--since=HEAD"}, {"pin"}, {"pin", url}, {"update"}, {"outdated"},
		{"verify"}, {"verify", "--online"}, {"graph", "-f", "-"},
	}...) {
		t.Run(strings.Join(args, " "), func(t *testing.T) { sameForUser(t, user, project, args...) })
	}
}

var buildTime = regexp.MustCompile(`, in [0-9.ms]+`)

// sameForUser wants the command to succeed for root and for an ordinary user, with the same output. The project, if
// there is one, is in a repository with a lock.
func sameForUser(t *testing.T, user *syscall.Credential, project string, args ...string) {
	t.Helper()
	results := make([]string, 2)
	for i := range results {
		c := newCLI(t)
		if project != "" {
			c.git(t, "init", "-q")
			c.git(t, "config", "user.name", "t")
			c.git(t, "config", "user.email", "t@example.com")
			c.write(t, "bake.hcl", project)
			c.commit(t)
		}
		if i > 0 {
			c.user = user
			giveTo(t, user, c.dir)
			giveTo(t, user, c.cache)
		}
		if project != "" && args[0] != "pin" {
			c.ok(t, "pin")
		}
		c.stdin = project
		stdout, stderr, code := c.run(t, args...)
		results[i] = strings.NewReplacer(c.dir, "DIR", c.cache, "CACHE").Replace(stdout + stderr)
		results[i] = buildTime.ReplaceAllString(results[i], "")
		if code != 0 {
			t.Errorf("exit code %d:\n%s", code, results[i])
		}
	}
	if results[0] != results[1] {
		t.Errorf("root:\n%s\nthe user:\n%s", results[0], results[1])
	}
}
