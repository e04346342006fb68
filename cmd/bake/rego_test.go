package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// regoCase is a build, and the policy for which it is refused.
type regoCase struct {
	name       string
	files      map[string]string // in addition to a Dockerfile and a.txt
	attributes string
	env        string
	args       []string // after "build"
	refused    string   // in the message; "" if the build succeeds
}

const regoDockerfile = "FROM scratch\nCOPY a.txt /\n"

// regoCases returns builds of local contexts, then of contexts by URL.
func regoCases(site *remoteSite) []regoCase {
	repo := site.url + "/repo.git#main"
	context := func(value, more string) string { return "context = \"" + value + "\"\n  " + more }
	inline := `dockerfile-inline = "FROM scratch\nCOPY a.txt /\n"`
	local := []regoCase{
		{"none", nil, "", "", nil, ""},
		{"adjacent", map[string]string{"Dockerfile.rego": "x"}, "", "", nil, "policy Dockerfile.rego"},
		{"empty", map[string]string{"Dockerfile.rego": ""}, "", "", nil, "policy Dockerfile.rego"},
		{"directory", map[string]string{"Dockerfile.rego/x": ""}, "", "", nil, "policy Dockerfile.rego"},
		{"of another Dockerfile", map[string]string{"other.rego": "x"}, "", "", nil, ""},
		{"named", map[string]string{"d/My.dockerfile": regoDockerfile, "d/My.dockerfile.rego": "x"},
			`dockerfile = "d/My.dockerfile"`, "", nil, "policy d/My.dockerfile.rego"},
		{"not next to the Dockerfile", map[string]string{"d/Dockerfile": regoDockerfile, "Dockerfile.rego": "x"},
			`dockerfile = "d/Dockerfile"`, "", nil, ""},
		{"lower case", map[string]string{"l/dockerfile": regoDockerfile, "l/a.txt": "", "l/dockerfile.rego": "x"},
			context("l", ""), "", nil, "policy l/dockerfile.rego"},
		{"inline", map[string]string{"Dockerfile.rego": "x"}, inline, "", nil, ""},
		{"disabled", map[string]string{"Dockerfile.rego": "x"}, `policy = ["disabled=true"]`, "", nil, ""},
		{"disabled by the user", map[string]string{"Dockerfile.rego": "x"}, "", "", []string{"--policy",
			"disabled=true"}, ""},
		{"reset", map[string]string{"Dockerfile.rego": "x"}, `policy = ["reset=true"]`, "", nil, ""},
		{"strict", map[string]string{"Dockerfile.rego": "x"}, `policy = ["strict=true"]`, "", nil,
			"policy Dockerfile.rego"},
		{"attribute", nil, `policy = ["filename=p.rego"]`, "", nil, "policy p.rego"},
		{"reset with a file", nil, `policy = ["reset=true,filename=p.rego"]`, "", nil, "policy p.rego"},
		{"reset after a file", nil, `policy = ["filename=p.rego", "reset=true"]`, "", nil, ""},
		{"built in", nil, "", "1", nil, "BUILDX_DEFAULT_POLICY"},
		{"built in, reset", nil, `policy = ["reset=true"]`, "true", nil, "BUILDX_DEFAULT_POLICY"},
		{"built in, off", nil, "", "0", nil, ""},
		{"built in, disabled", nil, "", "1", []string{"--policy", "disabled=true"}, ""},
	}
	return append(local, []regoCase{
		{"git context", nil, context(repo+":ruled", ""), "", nil, "Dockerfile.rego"},
		{"git context without", nil, context(repo+":free", ""), "", nil, ""},
		{"archive", nil, context(site.url+"/files/ruled.tar.gz", ""), "", nil, "Dockerfile.rego"},
		{"archive, other file", nil, context(site.url+"/files/ruled.tar.gz", `dockerfile = "other"`), "", nil, ""},
		{"archive, inline", nil, context(site.url+"/files/ruled.tar.gz", inline), "", nil, ""},
		{"archive, local file", map[string]string{"Dockerfile.rego": "x"},
			context(site.url+"/files/ruled.tar.gz", `dockerfile = "cwd://Dockerfile"`), "", nil,
			"policy Dockerfile.rego"},
		{"definition", nil, "", "", []string{site.url + "/files/definition.tar.gz"}, "Dockerfile.rego"},
		{"check", map[string]string{"Dockerfile.rego": "x"}, "", "", []string{"--check"}, "policy Dockerfile.rego"},
		{"image build", map[string]string{"Dockerfile.rego": "x"}, "", "", []string{"image"}, "policy Dockerfile.rego"},
		{"image build, disabled", map[string]string{"Dockerfile.rego": "x"}, "", "",
			[]string{"image", "--policy", "disabled=true"}, ""},
		{"image build, file", nil, "", "", []string{"image", "--policy", "filename=p.rego"}, "policy p.rego"},
		{"image build, built in", nil, "", "1", []string{"image"}, "BUILDX_DEFAULT_POLICY"},
	}...)
}

// TestRegoIsRefused shows that a build to which a policy in Rego applies in Docker is refused, wherever the policy is,
// and that a build to which none applies is not.
func TestRegoIsRefused(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	const dockerfile = regoDockerfile
	site.commit(t, "main", map[string]string{
		"ruled/Dockerfile": dockerfile, "ruled/a.txt": "a", "ruled/Dockerfile.rego": "package docker",
		"free/Dockerfile": dockerfile, "free/a.txt": "a",
	})
	site.files["ruled.tar.gz"] = archive(t, map[string]string{
		"Dockerfile": dockerfile, "a.txt": "a", "Dockerfile.rego": "package docker", "other": dockerfile,
	})
	site.files["definition.tar.gz"] = archive(t, map[string]string{
		"bake.hcl": "target \"default\" {\n  output = [\"type=cacheonly\"]\n}\n", "Dockerfile": dockerfile,
		"a.txt":           "a",
		"Dockerfile.rego": "package docker",
	})
	for _, c := range regoCases(site) {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "Dockerfile"), dockerfile)
		writeFile(t, filepath.Join(dir, "a.txt"), "a")
		writeFile(t, filepath.Join(dir, "bake.hcl"),
			"target \"default\" {\n  output = [\"type=cacheonly\"]\n  "+c.attributes+"\n}\n")
		for name, content := range c.files {
			writeFile(t, filepath.Join(dir, name), content)
		}
		args := append([]string{"build", "--progress=none"}, c.args...)
		if len(c.args) > 0 && c.args[0] == "image" {
			args = append([]string{"image", "build", "--progress=none", "."}, c.args[1:]...)
		}
		want := 0
		if c.refused != "" {
			want = exitPolicy
		}
		code, stderr := regoRun(dir, t.TempDir(), c.env, args...)
		if code != want || !strings.Contains(stderr, c.refused) ||
			want != 0 && !strings.Contains(stderr, "--policy disabled=true") {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, code, want, stderr)
		}
	}
}

func regoRun(dir, cache, builtIn string, args ...string) (int, string) {
	var out, errOut bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errOut, dir: dir, environ: map[string]string{
		"BAKE_CACHE_DIR": cache, "PATH": os.Getenv("PATH"), "HOME": dir, "BUILDX_DEFAULT_POLICY": builtIn}}
	return a.run(context.Background(), args), errOut.String()
}

// TestRegoAfterStoredPlan shows that a stored plan, of a build before the policy or of a command that only draws, does
// not hide a policy.
func TestRegoAfterStoredPlan(t *testing.T) {
	needSandbox(t)
	dir, cache := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n")
	writeFile(t, filepath.Join(dir, "bake.hcl"), "target \"default\" {\n  output = [\"type=cacheonly\"]\n}\n")
	for _, step := range []struct {
		rego    bool
		command string
		code    int
	}{
		{false, "build", 0}, {false, "build", 0}, {true, "build", 4}, {true, "graph", 0}, {true, "build", 4},
		{false, "build", 0},
	} {
		file := filepath.Join(dir, "Dockerfile.rego")
		_ = os.Remove(file)
		if step.rego {
			writeFile(t, file, "package docker")
		}
		args := []string{step.command}
		if step.command == "build" {
			args = append(args, "--progress=none")
		}
		if code, _, stderr := runIn(t, dir, cache, args...); code != step.code {
			t.Errorf("%+v: exit %d\n%s", step, code, stderr)
		}
	}
}
