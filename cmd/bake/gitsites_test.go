package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// gitSites serves the same repositories in three ways, and files. The first element of each path is ignored.
type gitSites struct {
	smart, dumb, daemon, files string // URLs without the path
	root                       string // of the repositories
	mu                         sync.Mutex
	requests                   []string // paths that were requested over HTTP
}

// serveGit creates the repositories main.git, withsub.git, deep.git and sha256.git and starts the servers.
func serveGit(t *testing.T) *gitSites {
	t.Helper()
	const backend = "/usr/lib/git-core/git-http-backend"
	if _, err := os.Stat(backend); err != nil {
		skip(t, "needs git: apt-get install git")
	}
	s := &gitSites{root: t.TempDir()}
	if err := os.Chmod(s.root, 0o755); err != nil {
		t.Fatal(err)
	}
	s.makeRepositories(t)
	s.makeFiles(t)
	serve := func(h http.Handler) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			s.requests = append(s.requests, r.URL.Path)
			s.mu.Unlock()
			_, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
			r.URL.Path = "/" + rest
			h.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	s.smart = serve(&cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + s.root, "GIT_HTTP_EXPORT_ALL=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}})
	s.dumb = serve(http.FileServer(http.Dir(s.root)))
	s.files = s.dumb
	s.daemon = startGitDaemon(t, s.root)
	return s
}

// startGitDaemon serves the repositories below a directory at git://…/x/.
func startGitDaemon(t *testing.T, root string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root, filepath.Join(root, "x")); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	// Not through git, which would start it as a process that outlives the test.
	cmd := exec.Command("/usr/lib/git-core/git-daemon", "--listen=127.0.0.1",
		fmt.Sprintf("--port=%d", address.Port), "--export-all", "--reuseaddr", "--base-path="+root)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}
	startService(t, cmd, log, answers("tcp", address.String()))
	return "git://" + address.String()
}

// at runs git at a time, so that commits have known hashes.
func (s *gitSites) at(t *testing.T, date, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com",
		"-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.root, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

const (
	firstDate = "2020-01-02T03:04:05Z"
	lastDate  = "2022-02-02T02:02:02+05:00"
)

// plainDockerfile shows the context and the derived SOURCE_DATE_EPOCH.
const plainDockerfile = "FROM scratch\nARG SOURCE_DATE_EPOCH\nENV E=$SOURCE_DATE_EPOCH\nCOPY . /r/\n"

func (s *gitSites) makeRepositories(t *testing.T) {
	t.Helper()
	repo := func(name string, files map[string]string, init ...string) string {
		dir := filepath.Join(t.TempDir(), name)
		s.at(t, firstDate, filepath.Dir(dir), append(append([]string{"init", "-q"}, init...), name)...)
		for path, text := range files {
			writeFile(t, filepath.Join(dir, path), text)
		}
		s.at(t, firstDate, dir, "add", "-A")
		s.at(t, firstDate, dir, "commit", "-q", "-m", "1")
		return dir
	}
	publish := func(dir, name string) {
		s.at(t, firstDate, dir, "clone", "-q", "--bare", dir, filepath.Join(s.root, name))
		s.at(t, firstDate, filepath.Join(s.root, name), "update-server-info")
	}
	publish(repo("sub", map[string]string{"s.txt": "s"}), "sub.git")
	files := map[string]string{
		"a.txt": "one", "d/b.txt": "b", "Dockerfile": plainDockerfile, ".dockerignore": "a.txt\n",
	}
	dir := repo("main", files)
	s.at(t, firstDate, dir, "tag", "light")
	s.at(t, firstDate, dir, "tag", "-a", "annotated", "-m", "x")
	s.at(t, firstDate, dir, "checkout", "-q", "-b", "dev/x")
	writeFile(t, filepath.Join(dir, "dev.txt"), "dev")
	s.at(t, firstDate, dir, "add", "-A")
	s.at(t, firstDate, dir, "commit", "-q", "-m", "dev")
	s.at(t, firstDate, dir, "checkout", "-q", "main")
	writeFile(t, filepath.Join(dir, "a.txt"), "two")
	s.at(t, lastDate, dir, "commit", "-q", "-a", "-m", "2")
	publish(dir, "main.git")
	dir = repo("withsub", map[string]string{"Dockerfile": plainDockerfile})
	s.addSubmodule(t, dir, "m", "./../sub.git")
	s.addSubmodule(t, dir, "n/o", "../main.git")
	publish(dir, "withsub.git")
	dir = repo("deep", map[string]string{"Dockerfile": plainDockerfile})
	s.addSubmodule(t, dir, "m", "../withsub.git")
	publish(dir, "deep.git")
	dir = repo("sha256", map[string]string{"a.txt": "one", "Dockerfile": plainDockerfile}, "--object-format=sha256")
	s.at(t, firstDate, dir, "tag", "-a", "v1", "-m", "x")
	publish(dir, "sha256.git")
}

// addSubmodule commits a submodule with a relative URL.
func (s *gitSites) addSubmodule(t *testing.T, dir, path, url string) {
	t.Helper()
	s.at(t, firstDate, dir, "config", "-f", ".gitmodules", "submodule."+path+".path", path)
	s.at(t, firstDate, dir, "config", "-f", ".gitmodules", "submodule."+path+".url", url)
	s.at(t, firstDate, dir, "add", ".gitmodules")
	s.at(t, firstDate, dir, "update-index", "--add", "--cacheinfo",
		"160000,"+s.commit(t, filepath.Base(url), "main")+","+path)
	s.at(t, firstDate, dir, "commit", "-q", "-m", "submodule")
}

// commit returns what a reference of a repository names.
func (s *gitSites) commit(t *testing.T, repo, ref string) string {
	t.Helper()
	return s.at(t, firstDate, filepath.Join(s.root, repo), "rev-parse", ref)
}

// makeFiles creates files with known times: a Dockerfile, an archive with one, and a compressed text.
func (s *gitSites) makeFiles(t *testing.T) {
	t.Helper()
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for i, name := range []string{"Dockerfile", "x", ".dockerignore"} {
		text := []string{plainDockerfile, "x", "x\n"}[i]
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg,
			ModTime: time.Date(2011+i, 1, 1, 0, 0, 0, 0, time.UTC)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	z = gzip.NewWriter(&text)
	if _, err := io.WriteString(z, plainDockerfile); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"recipe": plainDockerfile, "files.tar.gz": archive.String(), "text.gz": text.String(),
	} {
		path := filepath.Join(s.root, name)
		writeFile(t, path, content)
		at := time.Date(2018, 4, 4, 0, 0, len(name), 0, time.UTC)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// unpackImage unpacks the layers of the image in an OCI archive, which delete nothing, and returns its time and
// environment. The time counts only if the environment has an epoch.
func unpackImage(t *testing.T, archive, dir string) string {
	t.Helper()
	blobs := tarFiles(t, archive)
	read := func(name string, to any) {
		if err := json.Unmarshal([]byte(blobs[name]), to); err != nil {
			t.Fatalf("%s in %s: %v", name, archive, err)
		}
	}
	blob := func(d string) string { return "blobs/" + strings.Replace(d, ":", "/", 1) }
	type ref struct{ Digest, MediaType string }
	var m struct {
		Manifests, Layers []ref
		Config            ref
	}
	for read("index.json", &m); len(m.Manifests) > 0; {
		next := blob(m.Manifests[0].Digest)
		m.Manifests = nil
		read(next, &m)
	}
	for _, l := range m.Layers {
		unpackLayer(t, blobs[blob(l.Digest)], dir)
	}
	var config struct {
		Created time.Time
		Config  struct{ Env []string }
	}
	read(blob(m.Config.Digest), &config)
	for _, e := range config.Config.Env {
		if v, ok := strings.CutPrefix(e, "E="); ok && v != "" {
			return e + " created " + config.Created.UTC().Format(time.RFC3339)
		}
	}
	return "no epoch"
}

func unpackLayer(t *testing.T, layer, dir string) {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		mode := os.FileMode(h.Mode).Perm()
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, mode|0o700)
		case tar.TypeReg:
			raw, readErr := io.ReadAll(r)
			if err = readErr; err == nil {
				err = os.WriteFile(path, raw, mode)
			}
		default:
			t.Fatalf("unexpected type %q of %s", h.Typeflag, h.Name)
		}
		if err == nil {
			err = os.Chmod(path, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
