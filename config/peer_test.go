package config_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
)

// buildx returns the path of buildx, the peer. Without it the test is skipped, except in CI.
func buildx(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("buildx")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("no buildx, and CI must not skip")
	}
	if err != nil {
		t.Skip("needs buildx (.ci/peers builds it)")
	}
	return path
}

// TestAsPeer compares the printed projects in testdata/peer with the output of `buildx bake --print`. Each archive has
// many cases, a folder each. "args" is as in TestCases.
func TestAsPeer(t *testing.T) {
	peer := buildx(t)
	archives, err := filepath.Glob("testdata/peer/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, file := range archives {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		topic := strings.TrimSuffix(filepath.Base(file), ".txtar")
		for name, files := range casesOf(archive) {
			count++
			t.Run(topic+"/"+name, func(t *testing.T) {
				t.Parallel()
				comparePeer(t, peer, files)
			})
		}
	}
	if count < 150 {
		t.Errorf("%d cases, want at least 150", count)
	}
}

// casesOf groups the files of an archive by their first path component.
func casesOf(a *txtar.Archive) map[string][]txtar.File {
	all := map[string][]txtar.File{}
	for _, f := range a.Files {
		name, rest, _ := strings.Cut(f.Name, "/")
		all[name] = append(all[name], txtar.File{Name: rest, Data: f.Data})
	}
	return all
}

func comparePeer(t *testing.T, peer string, files []txtar.File) {
	dir := t.TempDir()
	opts := config.Options{Dir: dir}
	env := map[string]string{}
	for _, f := range files {
		if f.Name == "args" {
			readArgs(t, &opts, env, string(f.Data))
			continue
		}
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	opts.Env = env
	theirs, theirErr := runPeer(t, peer, opts, env)
	var ours []byte
	p, _, ourErr := config.Load(t.Context(), opts)
	if ourErr == nil {
		var err error
		if ours, err = config.Print(p); err != nil {
			t.Fatal(err)
		}
	}
	if (ourErr == nil) != (theirErr == "") {
		t.Fatalf("ours: %v\ntheirs: %s", ourErr, theirErr)
	}
	if ourErr != nil {
		return
	}
	d := cmp.Diff(decoded(t, theirs), decoded(t, ours))
	for try := 0; d != "" && try < 8; try++ { // the peer's order of overrides is random
		again, _ := runPeer(t, peer, opts, env)
		if bytes.Equal(again, theirs) {
			continue
		}
		theirs, d = again, cmp.Diff(decoded(t, again), decoded(t, ours))
	}
	if d != "" {
		t.Errorf("theirs -, ours +\n%s", d)
	}
}

func decoded(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

func runPeer(t *testing.T, peer string, opts config.Options, env map[string]string) (out []byte, failure string) {
	t.Helper()
	args := []string{"bake", "--print"}
	for _, f := range opts.Files {
		args = append(args, "-f", f)
	}
	for _, s := range opts.Set {
		args = append(args, "--set", s)
	}
	for _, v := range opts.Vars {
		args = append(args, "--var", v)
	}
	cmd := exec.Command(peer, append(args, opts.Targets...)...)
	cmd.Dir = opts.Dir
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, stderr.String()
	}
	return stdout.Bytes(), ""
}
