package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// remoteSite serves a git repository at /repo.git and files below /files.
type remoteSite struct {
	url   string
	work  string // the repository's work tree
	files map[string][]byte
	// redirects maps paths below /files to the URLs that they are moved to.
	redirects map[string]string
	changes   atomic.Int32 // of files and redirects since the server started, see changed
}

// changed makes the server see what a test wrote into files or redirects.
func (s *remoteSite) changed() { s.changes.Add(1) }

// newRemoteSite starts the server with an empty repository and no files.
func newRemoteSite(t *testing.T) *remoteSite {
	t.Helper()
	backend := "/usr/lib/git-core/git-http-backend"
	if _, err := os.Stat(backend); err != nil {
		skip(t, "needs git: apt-get install git")
	}
	root := t.TempDir()
	s := &remoteSite{work: filepath.Join(t.TempDir(), "work"), files: map[string][]byte{},
		redirects: map[string]string{}}
	git(t, root, "init", "-q", "--bare", "repo.git")
	git(t, root, "-C", "repo.git", "config", "uploadpack.allowAnySHA1InWant", "true")
	git(t, root, "clone", "-q", filepath.Join(root, "repo.git"), s.work)
	mux := http.NewServeMux()
	mux.Handle("/repo.git/", &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root,
		"GIT_HTTP_EXPORT_ALL=1"}})
	mux.HandleFunc("/files/", func(w http.ResponseWriter, r *http.Request) {
		s.changes.Load()
		if to := s.redirects[strings.TrimPrefix(r.URL.Path, "/files/")]; to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		raw, ok := s.files[strings.TrimPrefix(r.URL.Path, "/files/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(raw)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// git runs git in a directory, without the configuration of the machine, and returns its output.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c",
		"init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files and publishes them on a branch.
func (s *remoteSite) commit(t *testing.T, branch string, files map[string]string) {
	t.Helper()
	git(t, s.work, "checkout", "-q", "-B", branch)
	for name, content := range files {
		writeFile(t, filepath.Join(s.work, name), content)
	}
	git(t, s.work, "add", "-A")
	git(t, s.work, "commit", "-q", "--allow-empty", "-m", "x")
	git(t, s.work, "push", "-q", "--force", "origin", branch)
}

// runIn runs a command line in this process, in a directory and with a cache.
func runIn(t *testing.T, dir, cache string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errOut, dir: dir,
		environ: map[string]string{"BAKE_CACHE_DIR": cache, "PATH": os.Getenv("PATH"), "HOME": dir}}
	code = a.run(context.Background(), args)
	return code, out.String(), errOut.String()
}

const remoteBake = `
target "default" {
  context = "app"
  contexts = { shared = "shared", here = "cwd://local" }
  tags = ["remote:1"]
  output = ["type=tar,dest=out.tar"]
}
target "root" {
  dockerfile = "app/Dockerfile"
  contexts = { shared = "shared", here = BAKE_CMD_CONTEXT }
}
target "escape" { context = "../.." }
target "leak" { dockerfile = "leak" }
target "link" { context = "outside" }
target "greedy" {
  contexts = { x = "cwd:///etc" }
  dockerfile-inline = "FROM scratch"
}
`

// TestRemoteDefinition shows that a project of a git repository is built with the files of the repository and with
// those of this machine that it may read, and with no others.
func TestRemoteDefinition(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{
		"docker-bake.hcl": remoteBake, "app/a.txt": "one", "shared/s.txt": "shared",
		"app/Dockerfile": "FROM scratch\nCOPY a.txt /\nCOPY --from=shared s.txt /\nCOPY --from=here l.txt /\n",
		"team/bake.hcl":  "include = [\"more.hcl\"]\n", "team/more.hcl": "target \"default\" {}\n",
		"team/Dockerfile": "FROM scratch\nCOPY more.hcl /\n",
		"evil/bake.hcl":   "include = [\"../../../../../../etc/hostname\"]\n",
	})
	if err := os.Symlink("/etc", filepath.Join(site.work, "outside")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(site.work, "leak")); err != nil {
		t.Fatal(err)
	}
	site.commit(t, "main", nil)
	dir, cache := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(dir, "local/l.txt"), "local")
	repo := site.url + "/repo.git"
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none", repo); code != 0 {
		t.Fatal(code, stderr)
	}
	if got, want := tarFiles(t, filepath.Join(dir, "out.tar")), map[string]string{"a.txt": "one", "s.txt": "shared",
		"l.txt": "local"}; !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	site.commit(t, "dev", map[string]string{"app/a.txt": "two"})
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none", repo+"#dev"); code != 0 {
		t.Fatal(code, stderr)
	}
	if got := tarFiles(t, filepath.Join(dir, "out.tar"))["a.txt"]; got != "two" {
		t.Errorf("a.txt of the branch is %q", got)
	}
	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{repo + "#:team"}, 0, ""},
		{[]string{repo + "#dev:team"}, 0, ""},
		{[]string{repo + "#" + git(t, site.work, "rev-parse", "main") + ":team"}, 0, ""},
		{[]string{repo + "#nope"}, 5, "no branch or tag nope"},
		{[]string{repo + "#:nope"}, 5, "directory nope does not exist"},
		{[]string{repo, "escape"}, 2, "is outside of"},
		{[]string{repo, "leak"}, 2, "a link to a file outside"},
		{[]string{repo, "link"}, 5, "leads out of"},
		{[]string{repo, "greedy"}, 2, "--allow fs.read=/etc"},
		{[]string{repo + "#:evil"}, 2, "include"},
		{[]string{site.url + "/gone.git"}, 5, "fetch"},
		{[]string{repo, "-f", "../x.hcl"}, 2, "x.hcl"},
	} {
		code, _, stderr := runIn(t, dir, cache, append([]string{"build", "--progress=none"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%v: exit %d, want %d\n%s", c.args, code, c.code, stderr)
		}
	}
}

// TestRemotePrint shows that --print gives the contexts of a remote definition as URLs.
func TestRemotePrint(t *testing.T) {
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{"x/docker-bake.hcl": remoteBake})
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mine.hcl"), "target \"default\" { labels = { a = \"b\" } }\n")
	repo := site.url + "/repo.git#main:x"
	code, stdout, stderr := runIn(t, dir, t.TempDir(), "build", "--print", "-f", "docker-bake.hcl", "-f",
		"cwd://mine.hcl", repo, "default", "root")
	if code != 0 {
		t.Fatal(code, stderr)
	}
	var got struct {
		Target map[string]struct {
			Context  string
			Contexts map[string]string
			Labels   map[string]string
		}
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	base := site.url + "/repo.git#main:x"
	d, r := got.Target["default"], got.Target["root"]
	if d.Context != base+"/app" || d.Contexts["shared"] != base+"/shared" || d.Contexts["here"] != "cwd://local" ||
		d.Labels["a"] != "b" {
		t.Errorf("default: %+v", d)
	}
	if r.Context != base || r.Contexts["here"] != "cwd://" {
		t.Errorf("root: %+v", r)
	}
	_, stdout, _ = runIn(t, dir, t.TempDir(), "build", "--print", repo, "https://example.com/context.git", "root")
	if !strings.Contains(stdout, `"here": "https://example.com/context.git"`) {
		t.Error(stdout)
	}
}

// TestRemoteFiles shows that a definition can be one file, whose contexts are on this machine, or an archive, which
// contains its contexts.
func TestRemoteFiles(t *testing.T) {
	needSandbox(t)
	site := newRemoteSite(t)
	site.files["one.hcl"] = []byte("target \"default\" { output = [\"type=tar,dest=out.tar\"] }\n")
	site.files["all.tar.gz"] = archive(t, map[string]string{
		"bake.hcl":  "target \"default\" {\n  context = \"app\"\n  output = [\"type=tar,dest=out.tar\"]\n}\n",
		"app/a.txt": "archived", "app/Dockerfile": "FROM scratch\nCOPY a.txt /\n",
	})
	dir, cache := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY Dockerfile /here\n")
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none", site.url+"/files/one.hcl"); code != 0 {
		t.Fatal(code, stderr)
	}
	if got := tarFiles(t, filepath.Join(dir, "out.tar")); len(got) != 1 || got["here"] == "" {
		t.Error(got)
	}
	if code, _, stderr := runIn(t, dir, cache, "build", "--progress=none", site.url+"/files/all.tar.gz"); code != 0 {
		t.Fatal(code, stderr)
	}
	if got := tarFiles(t, filepath.Join(dir, "out.tar")); got["a.txt"] != "archived" {
		t.Error(got)
	}
	if code, _, stderr := runIn(t, dir, cache, "build", site.url+"/files/none"); code != 5 ||
		!strings.Contains(stderr, "404") {
		t.Error(code, stderr)
	}
}

// archive returns a tar.gz of files.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)),
			Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tarFiles returns the regular files of a tar, by path.
func tarFiles(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]string{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err != nil {
			return all
		}
		if h.Typeflag == tar.TypeReg {
			var b bytes.Buffer
			if _, err := b.ReadFrom(r); err != nil {
				t.Fatal(err)
			}
			all[strings.TrimPrefix(h.Name, "./")] = b.String()
		}
	}
}

// writeFile writes a file and creates its directory.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
