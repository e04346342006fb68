package fetch

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/dial"
)

func TestMain(m *testing.M) {
	if code, isHelper := dial.Helper(os.Getenv, os.Args[1:]); isHelper {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// gitSite is a git repository on loopback that git reads over HTTP as plain files, over the protocol git, and over a
// program that stands for ssh.
type gitSite struct {
	work, bare string
	http       *httptest.Server
	raw        string // the address of git-upload-pack, without ssh
	daemon     string // the address of git-daemon
	redirect   string // where HTTP requests are sent to, if not empty
}

func newGitSite(t *testing.T) *gitSite {
	t.Helper()
	s := &gitSite{work: t.TempDir(), bare: filepath.Join(t.TempDir(), "repo.git")}
	s.git(t, "", "init", "-q", "--bare", s.bare)
	s.git(t, "", "clone", "-q", s.bare, s.work)
	files := http.FileServer(http.Dir(filepath.Dir(s.bare)))
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.redirect != "" {
			http.Redirect(w, r, s.redirect+r.URL.RequestURI(), http.StatusFound)
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.http.Close)
	s.raw = serve(t, "upload-pack", "--strict", s.bare)
	s.daemon = serve(t, "daemon", "--inetd", "--export-all", "--base-path="+filepath.Dir(s.bare))
	return s
}

// serve runs git for each connection to the address that it returns.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			cmd := exec.Command("git", args...)
			cmd.Stdin, cmd.Stdout = c, c
			go func() {
				_ = cmd.Run()
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func (s *gitSite) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c",
		"init.defaultBranch=main", "-c", "safe.directory=*", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit publishes a file and, if it is not empty, a submodule at a URL. It returns the commit.
func (s *gitSite) commit(t *testing.T, submodule string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.work, "a.txt"), []byte(submodule), 0o644); err != nil {
		t.Fatal(err)
	}
	s.git(t, s.work, "checkout", "-q", "-B", "main")
	s.git(t, s.work, "add", "-A")
	s.git(t, s.work, "commit", "-q", "--allow-empty", "-m", "x")
	if submodule != "" {
		modules := fmt.Sprintf("[submodule \"m\"]\n\tpath = m\n\turl = %s\n", submodule)
		if err := os.WriteFile(filepath.Join(s.work, ".gitmodules"), []byte(modules), 0o644); err != nil {
			t.Fatal(err)
		}
		s.git(t, s.work, "add", ".gitmodules")
		s.git(t, s.work, "update-index", "--add", "--cacheinfo", "160000,"+s.git(t, s.work, "rev-parse", "HEAD")+",m")
		s.git(t, s.work, "commit", "-q", "-m", "submodule")
	}
	s.git(t, s.work, "push", "-q", "--force", "origin", "main")
	s.git(t, s.bare, "update-server-info")
	return s.git(t, s.work, "rev-parse", "HEAD")
}

// fakeSSH returns a directory with a program ssh that connects as its ProxyCommand option says, and to a shell's
// interpretation of it as older versions of ssh do.
func fakeSSH(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	script := `#!/bin/sh
port=22 proxy=
while test $# -gt 2; do
	case $1 in
	-p) port=$2; shift 2;;
	-o) case $2 in ProxyCommand=*) proxy=${2#ProxyCommand=};; esac; shift 2;;
	*) shift;;
	esac
done
host=${1#*@}
test -n "$proxy" || exec bash -c 'exec 3<>/dev/tcp/$0/$1; cat <&3 & cat >&3' "$host" "$port"
exec sh -c "exec $(printf %s "$proxy" | sed "s/%h/$host/; s/%p/$port/")"
`
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newGuarded(t *testing.T, trusted ...string) *Fetcher {
	t.Helper()
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	guard := dial.New(func(string) string { return "" })
	t.Cleanup(func() { guard.Close() })
	for _, u := range trusted {
		guard.Trust(u)
	}
	return &Fetcher{Store: store, Guard: guard, Program: os.Args[0], Env: []string{
		"PATH=" + fakeSSH(t) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=*",
		"http_proxy=http://127.0.0.1:1", // of the user: the guard of this test has none
	}}
}

// closedPort is a listener that counts connections and closes them.
func closedPort(t *testing.T) (addr string, count *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	count = &atomic.Int32{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			_ = c.Close()
		}
	}()
	return l.Addr().String(), count
}

// TestGitIsGuarded shows that git of a remote definition connects to this machine in no protocol, neither for a
// repository nor for a submodule or a redirect, and that it does connect to the host of the definition.
func TestGitIsGuarded(t *testing.T) {
	site := newGitSite(t)
	plain := site.commit(t, "")
	addr, count := closedPort(t)
	_, port, _ := net.SplitHostPort(addr)
	urls := map[string]string{
		"http": "http://" + addr + "/x.git", "https": "https://" + addr + "/x.git", "git": "git://" + addr + "/x.git",
		"ssh": "ssh://git@" + addr + "/x.git", "name": "http://localhost:" + port + "/x.git",
		"zero": "http://0.0.0.0:" + port + "/x.git", "mapped": "http://[::ffff:127.0.0.1]:" + port + "/x.git",
		"ssh by name": "ssh://git@localhost:" + port + "/x.git",
		"short":       "http://127.1:" + port + "/x.git", "number": "http://2130706433:" + port + "/x.git",
	}
	refused := func(what string, err error) {
		t.Helper()
		var local *dial.LocalError
		if !errors.As(err, &local) && what != "short" && what != "number" || err == nil {
			t.Errorf("%s: err = %v", what, err)
		}
		if n := count.Swap(0); n > 0 {
			t.Errorf("%s: %d connections", what, n)
		}
	}
	for what, url := range urls {
		_, err := newGuarded(t).Commit(t.Context(), Repository{Remote: url, Ref: "main"})
		refused(what, err)
		if what == "short" || what == "number" { // as a submodule the same, but slow: no such name
			continue
		}
		commit := site.commit(t, url)
		f := newGuarded(t, site.http.URL)
		_, err = f.Checkout(t.Context(), Repository{Remote: site.http.URL + "/repo.git"}, commit)
		refused("submodule, "+what, err)
	}
	f := newGuarded(t, site.http.URL)
	site.redirect = "http://" + addr
	_, err := f.Commit(t.Context(), Repository{Remote: site.http.URL + "/repo.git", Ref: "main"})
	refused("redirect", err)
	site.redirect = ""

	for _, url := range []string{
		site.http.URL + "/repo.git", "git://" + site.daemon + "/repo.git",
		"ssh://git@" + site.raw + "/repo.git",
	} {
		f := newGuarded(t, url)
		ref := Repository{Remote: url, Ref: "main"}
		if _, err := f.Commit(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if _, err := f.Checkout(t.Context(), ref, plain); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestHostNameOfSSH shows that the name of a host reaches no shell: ssh passes it to the one that runs its
// ProxyCommand.
func TestHostNameOfSSH(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	for _, host := range []string{"`touch${IFS}" + mark + "`", "$(touch${IFS}" + mark + ")", "x;touch${IFS}" + mark,
		"x|y"} {
		f := newGuarded(t)
		_, err := f.Commit(t.Context(), Repository{Remote: "ssh://git@" + host + "/x.git", Ref: "main"})
		if err == nil {
			t.Errorf("%s: no error", host)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a shell ran a command in the name of a host")
	}
}
