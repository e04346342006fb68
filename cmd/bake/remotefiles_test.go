package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
)

// TestRemoteDockerfileOfHost shows that a remote definition cannot have a file of this machine read as its Dockerfile,
// whatever its context and its syntax are, and whichever command reads it.
func TestRemoteDockerfileOfHost(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	writeFile(t, secret, "FROM scratch\nLABEL token=hunter22\nHUNTER22\n")
	dir, cache := filepath.Join(outside, "work"), t.TempDir()
	writeFile(t, filepath.Join(dir, "empty/x"), "x")
	site.files["context.tar.gz"] = archive(t, map[string]string{"a.txt": "a"})
	site.commit(t, "main", map[string]string{"app/a.txt": "a"})

	dockerfiles := []string{secret, "cwd://" + secret, "cwd://../secret", "cwd://empty/../../secret"}
	contexts := []string{
		"app", ".", "cwd://empty", site.url + "/files/context.tar.gz", site.url + "/repo.git#main:app",
	}
	n := 0
	for _, context := range contexts {
		for _, dockerfile := range dockerfiles {
			hcl := fmt.Sprintf("target \"default\" {\n  context = %q\n  dockerfile = %q\n}\n", context, dockerfile)
			compose := fmt.Sprintf("services:\n  x:\n    build: {context: %q, dockerfile: %q}\n", context, dockerfile)
			for name, content := range map[string]string{"docker-bake.hcl": hcl, "compose.yaml": compose} {
				file := fmt.Sprintf("case%d.tar.gz", n)
				n++
				site.files[file] = archive(t, map[string]string{name: content, "app/a.txt": "a"})
				repo := site.url + "/files/" + file
				commands := [][]string{{"build", "--progress=none"}}
				if context == "app" {
					commands = append(commands, []string{"plan"}, []string{"graph"}, []string{"build",
						"--call=outline"}, []string{"build", "--check"})
				}
				for _, command := range commands {
					code, stdout, stderr := runIn(t, dir, cache, append(command, repo)...)
					if code != 2 || !strings.Contains(stderr, "--allow fs.read=") ||
						strings.Contains(strings.ToLower(stdout+stderr), "hunter22") {
						t.Errorf("%v %s %s, context %s: exit %d\n%s%s", command, name, dockerfile, context, code,
							stdout,
							stderr)
					}
				}
				code, stdout, stderr := runIn(t, dir, cache, "graph", "--allow", "fs.read="+secret, repo)
				if strings.Contains(stderr, "access denied") {
					t.Errorf("with --allow: exit %d\n%s%s", code, stdout, stderr)
				}
			}
		}
	}
}

// TestRemoteReadsNoVariables shows that a remote compose file gets no variables of the working directory's .env.
func TestRemoteReadsNoVariables(t *testing.T) {
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{
		"compose.yaml": "services:\n  x:\n    build: {context: ., args: {TOKEN: \"got ${TOKEN:-nothing}\"}}\n",
	})
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".env"), "TOKEN=hunter22\n")
	code, stdout, stderr := runIn(t, dir, t.TempDir(), "build", "--print", site.url+"/repo.git#main")
	if code != 0 || !strings.Contains(stdout, "got nothing") {
		t.Error(code, stdout, stderr)
	}
	code, stdout, stderr = runIn(t, dir, t.TempDir(), "build", "--print", "--env-file", ".env",
		site.url+"/repo.git#main")
	if code != 0 || !strings.Contains(stdout, "got hunter22") {
		t.Error("with --env-file:", code, stdout, stderr)
	}
}

// TestRemoteInsecure shows that a remote definition cannot have credentials sent without verified TLS.
func TestRemoteInsecure(t *testing.T) {
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{
		"docker-bake.hcl": "target \"default\" {\n  dockerfile-inline = \"FROM scratch\"\n  output = " +
			"[\"type=registry,name=reg.example.com/x,registry.insecure=true\"]\n}\n",
	})
	code, stdout, stderr := runIn(t, t.TempDir(), t.TempDir(), "build", site.url+"/repo.git#main")
	if code != exitUsage || !strings.Contains(stderr, "a remote definition cannot set registry.insecure") {
		t.Error(code, stdout, stderr)
	}
}

// TestOriginOfQuery shows that two definitions that only a query tells apart are two projects, and that the origin of
// their images does not keep the query, which may hold a token.
func TestOriginOfQuery(t *testing.T) {
	of := func(url string) string {
		return (&app{project: &config.Project{Remote: url}}).origin().Project
	}
	a, b := of("https://example.com/raw?id=a&token=hunter2"), of("https://example.com/raw?id=b&token=hunter2")
	if a == b || strings.Contains(a, "hunter2") || a != of("https://example.com/raw?id=a&token=hunter2") {
		t.Errorf("got %s and %s", a, b)
	}
	if got := of("https://example.com/raw"); got != "https://example.com/raw" {
		t.Errorf("without a query: %s", got)
	}
}
