package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner/pins"
)

// pinSite is a registry that records its requests, and the directory of a project.
type pinSite struct {
	t          *testing.T
	host       string
	dir, cache string
	ci         string // the variable CI
	mu         sync.Mutex
	asked      []string // METHOD PATH
}

// newPinSite starts the registry. The directory is empty.
func newPinSite(t *testing.T) *pinSite {
	s := &pinSite{t: t, dir: t.TempDir(), cache: t.TempDir()}
	serve := memory.New(memory.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		serve.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// requests returns the requests since the last call that contain a text.
func (s *pinSite) requests(part string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := slices.DeleteFunc(s.asked, func(r string) bool { return !strings.Contains(r, part) })
	s.asked = nil
	return found
}

// push pushes a new index of some architectures, created a number of days ago, under a tag. It returns its digest.
func (s *pinSite) push(tag, version string, days int, arches ...string) string {
	s.t.Helper()
	var adds []mutate.IndexAddendum
	for _, arch := range arches {
		image, err := random.Image(100, 1)
		if err != nil {
			s.t.Fatal(err)
		}
		c, err := image.ConfigFile()
		if err != nil {
			s.t.Fatal(err)
		}
		c = c.DeepCopy()
		c.OS, c.Architecture, c.Created = "linux", arch,
			v1.Time{Time: time.Now().Add(-time.Duration(days) * 24 * time.Hour)}
		c.Config.Labels = map[string]string{"org.opencontainers.image.version": version}
		if image, err = mutate.ConfigFile(image, c); err != nil {
			s.t.Fatal(err)
		}
		adds = append(adds, mutate.IndexAddendum{Add: image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	index := mutate.AppendManifests(empty.Index, adds...)
	ref, err := name.ParseReference(s.host + "/" + tag)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		s.t.Fatal(err)
	}
	d, err := index.Digest()
	if err != nil {
		s.t.Fatal(err)
	}
	return d.String()
}

// write writes a file of the project. HOST stands for the registry.
func (s *pinSite) write(name, content string) {
	writeFile(s.t, filepath.Join(s.dir, name), strings.ReplaceAll(content, "HOST", s.host))
}

// read returns the content of a file of the project.
func (s *pinSite) read(name string) string {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(raw)
}

// bake runs a command line in this process. It must exit with a code, and its output must contain a text.
func (s *pinSite) bake(code int, says string, args ...string) (stdout, stderr string) {
	s.t.Helper()
	var out, errs strings.Builder
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, dir: s.dir,
		environ: map[string]string{"BAKE_CACHE_DIR": s.cache, "PATH": os.Getenv("PATH"), "HOME": s.dir, "CI": s.ci}}
	got := a.run(s.t.Context(), args)
	stdout, stderr = out.String(), errs.String()
	if says = strings.ReplaceAll(says, "HOST", s.host); got != code || !strings.Contains(stdout+stderr, says) {
		s.t.Fatalf("bake %s: exit %d, want %d and %q:\n%s%s", strings.Join(args, " "), got, code, says, stdout, stderr)
	}
	return stdout, stderr
}

// project writes a project of two services on different tags of a base.
func (s *pinSite) project() {
	s.write("bake.hcl", `base "shared" { image = "HOST/team/base:1.2.3" }
group "default" { targets = ["a", "b"] }
target "a" { context = "a" }
target "b" { context = "b" }
`)
	s.write("a/Dockerfile", "FROM shared\nCOPY Dockerfile /\n")
	s.write("b/Dockerfile", "# not HOST/team/base:1.2.4\r\nARG TAG=1.2.4\r\nFROM HOST/team/base:1.2.4 AS one\r\n"+
		"FROM HOST/team/base:${TAG}\r\nCOPY --from=one / /one\r\n")
}

// lock reads the lock of the project.
func (s *pinSite) lock() *config.Lock {
	s.t.Helper()
	l, err := config.ReadLock(s.dir)
	if err != nil || l == nil {
		s.t.Fatal("the lock cannot be read", err)
	}
	return l
}

// TestPinsMove shows that a tag that moves changes nothing until update moves its pin, and how verify, outdated and
// update report it.
func TestPinsMove(t *testing.T) {
	s := newPinSite(t)
	arch := runtime.GOARCH
	old := s.push("team/base:1.2.3", "1.2.3", 400, arch, "s390x")
	newer := s.push("team/base:1.2.4", "1.2.4", 100, arch)
	s.project()
	s.bake(3, "create and commit it: bake pin", "verify")
	s.bake(0, "+ HOST/team/base:1.2.3 "+old, "pin")
	s.bake(0, "none deleted or moved", "verify", "--online")
	s.requests("")
	out, _ := s.bake(0, "", "outdated", "--exit-code")
	asked := s.requests("/v2/team/")
	slices.Sort(asked)
	if d := cmp.Diff([]string{"GET /v2/team/base/tags/list", "HEAD /v2/team/base/manifests/1.2.3",
		"HEAD /v2/team/base/manifests/1.2.4"}, asked); d != "" {
		t.Errorf("requests of outdated: %s", d)
	}
	wantMatch(t, "the table", out, `(?s)^REFERENCE +LOCKED +CURRENT +AGE +NEWER TAGS +USED BY\n\S+/team/base:1.2.3 +`+
		old[:19]+` +same +13 months ago +1.2.4 +a\n\nDrift\n\S+/team/base\n`+
		` +\S+:1.2.3 +\S+ +locked +a +a/Dockerfile:1\n +\S+:1.2.4 +`+newer[:19]+
		` +locked +b +b/Dockerfile:3, b/Dockerfile:4\n$`)

	moved := s.push("team/base:1.2.3", "1.2.3-again", 3, arch, "riscv64")
	s.bake(3, "HOST/team/base:1.2.3: the version tag was pushed again: locked "+old+", now "+moved, "verify",
		"--online")
	s.bake(6, "1 pin out of date", "outdated", "--exit-code")
	out, _ = s.bake(0, "", "outdated", "--format=json")
	var view outdatedView
	if err := json.Unmarshal([]byte(out), &view); err != nil || len(view.Pins) != 2 {
		t.Fatal(err, out)
	}
	view.Pins[0].Created = nil
	want := pins.Status{Ref: s.host + "/team/base:1.2.3", Locked: old, Current: moved, Newer: []string{"1.2.4"},
		UsedBy: []string{"a"}, Moved: true}
	if d := cmp.Diff(want, view.Pins[0]); d != "" {
		t.Error(d)
	}
	out, _ = s.bake(0, "", "outdated", "--format=markdown")
	wantMatch(t, "markdown", out, "(?s)\\| `\\S+/team/base:1.2.3` \\| `"+old[:19]+"` \\| `"+moved[:19]+
		"` \\| 13 months ago \\| 1.2.4 \\| a \\|\n.*### Drift.*a/Dockerfile:1")

	updateMoves(s, old, newer, moved)
	pinIsGone(s, moved)
}

// updateMoves shows what update reports, which pins it moves, and that --dry-run moves none. The tag 1.2.3 is pinned to
// old and has moved; newer is the digest of the tag 1.2.4.
func updateMoves(s *pinSite, old, newer, moved string) {
	t := s.t
	t.Helper()
	before := s.read("bake.lock")
	out, _ := s.bake(0, "1 pin would move", "update", "--dry-run")
	wantMatch(t, "what would move", out, `^\S+/team/base:1.2.3\n  from `+old+
		` \(created 13 months ago, version 1.2.3\)\n  to   `+moved+
		` \(created 3 days ago, version 1.2.3-again\)\n  platforms gained linux/riscv64; lost linux/s390x\n`+
		`  rebuilds a\n$`)
	if s.read("bake.lock") != before {
		t.Error("a dry run wrote the lock")
	}
	s.bake(2, "no pin named", "update", "--to", "1.2.4")
	s.bake(0, "1 pin moved", "update", "shared", "--to", "1.2.4")
	if got := s.lock().Pin(s.host + "/team/base:1.2.3"); got != newer {
		t.Errorf("--to led to %s", got)
	}
	s.bake(0, "1.2.3 and 1.2.4 are the same image; use one tag", "outdated")
	out, _ = s.bake(0, "1 pin moved", "update", "--format=markdown", "base:1.2.3")
	wantMatch(t, "markdown of an update", out, "`"+newer[:19]+"` .*`"+moved[:19]+"`")
}

// pinIsGone shows how commands report a pinned image that the registry has deleted, and that update replaces it.
func pinIsGone(s *pinSite, moved string) {
	t := s.t
	t.Helper()
	ref, err := name.ParseReference(s.host + "/team/base@" + moved)
	if err == nil {
		err = remote.Delete(ref)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.push("team/base:1.2.3", "1.2.3", 1, runtime.GOARCH)
	_, stderr := s.bake(3, moved+" no longer exists at HOST/team/base:1.2.3 (the tag now names ", "verify", "--online")
	wantMatch(t, "what to do", stderr, "move the pin: bake update \\S+/team/base:1.2.3\n")
	s.cache = t.TempDir()
	s.bake(5, "to move the pin: bake update", "plan", "a")
	s.bake(0, "1 pin moved", "update", "team/base:1.2.3")
}

// TestPinCopies shows that pin --copy-to keeps pinned images at another repository, and that builds use the copies.
func TestPinCopies(t *testing.T) {
	s := newPinSite(t)
	first := s.push("team/base:1.2.3", "", 1, runtime.GOARCH, "s390x")
	s.push("team/base:1.2.4", "", 1, runtime.GOARCH)
	s.project()
	s.bake(2, "expected a repository", "pin", "--copy-to=mirror:1")
	s.bake(2, "cannot be combined", "pin", "--in-place", "--copy-to=HOST/mirror")
	s.bake(0, "> HOST/team/base:1.2.3 HOST/mirror/team/base", "pin", "--copy-to="+s.host+"/mirror")
	if got := s.lock().Images[s.host+"/team/base:1.2.3"]; got.From != s.host+"/mirror/team/base" ||
		got.Digest.String() != first {
		t.Errorf("the lock has %v", got)
	}
	s.requests("")
	out, _ := s.bake(0, "0 changes", "pin", "--copy-to="+s.host+"/mirror")
	if sent := s.requests("/blobs/uploads/"); out != "" || len(sent) > 0 {
		t.Errorf("existing blobs were sent again: %q %v", out, sent)
	}
	s.cache = t.TempDir()
	s.bake(0, "", "plan", "--frozen")
	asked := s.requests("/v2/")
	if !slices.ContainsFunc(asked,
		func(r string) bool { return strings.HasPrefix(r, "GET /v2/mirror/team/base/manifests/"+first) }) ||
		slices.ContainsFunc(asked, func(r string) bool { return strings.Contains(r, " /v2/team/") }) {
		t.Errorf("requests: %v", asked)
	}
	moved := s.push("team/base:1.2.3", "", 0, runtime.GOARCH)
	s.bake(0, "1 pin moved", "update")
	if got := s.lock().Images[s.host+"/team/base:1.2.3"]; got.From != s.host+"/mirror/team/base" ||
		got.Digest.String() != moved {
		t.Errorf("after an update the lock has %v", got)
	}
	if _, err := crane.Head(s.host + "/mirror/team/base@" + moved); err != nil {
		t.Errorf("the new image of the pin was not copied: %v", err)
	}
}

// TestOffline shows that --offline makes no requests when the store has everything, and that an error names what is
// missing.
func TestOffline(t *testing.T) {
	s := newPinSite(t)
	s.push("team/base:1.2.3", "", 1, runtime.GOARCH)
	s.push("team/base:1.2.4", "", 1, runtime.GOARCH)
	s.project()
	s.bake(0, "", "plan")
	s.requests("")
	s.bake(0, "", "plan", "--offline", "--pull")
	s.bake(3, "bake.lock not found in ", "plan", "--offline", "--frozen")
	s.bake(0, "", "pin")
	s.requests("")
	s.bake(0, "", "plan", "--offline")
	if asked := s.requests(""); len(asked) > 0 {
		t.Errorf("offline it requested %v", asked)
	}
	s.bake(2, "--offline cannot be combined with a BuildKit daemon", "build", "--offline", "--engine=tcp://127.0.0.1:1")
	s.cache = t.TempDir()
	s.bake(5, "--offline is set", "plan", "--offline", "a")
	if asked := s.requests(""); len(asked) > 0 {
		t.Errorf("offline it requested %v", asked)
	}
}

// TestFrozenInCI shows that a lock freezes builds where CI is set: nothing is requested by tag, with an empty store
// either.
func TestFrozenInCI(t *testing.T) {
	s := newPinSite(t)
	s.push("team/base:1.2.3", "", 1, runtime.GOARCH)
	s.push("team/base:1.2.4", "", 1, runtime.GOARCH)
	s.project()
	s.ci = "true"
	s.bake(0, "", "plan") // nothing is frozen without a lock
	s.bake(0, "", "pin", "a")
	for ci, code := range map[string]int{"true": 3, "1": 3, "github": 3, "0": 0, "false": 0, "": 0} {
		s.ci = ci
		s.bake(code, "bake.lock", "plan")
		s.bake(0, "", "plan", "--lock=auto")
	}
	s.ci = "1"
	s.bake(0, "", "pin")
	before := s.read("bake.lock")
	s.cache = t.TempDir()
	s.requests("")
	s.bake(0, "", "plan")
	asked := s.requests("/manifests/")
	if len(asked) == 0 || slices.ContainsFunc(asked,
		func(r string) bool { return !strings.Contains(r, "/manifests/sha256:") }) {
		t.Errorf("requests: %v", asked)
	}
	s.bake(0, "", "plan", "--lock=locked", "--pull")
	if asked := s.requests("/v2/"); len(asked) > 0 {
		t.Errorf("with a full store it requested %v", asked)
	}
	s.bake(2, "expected auto, frozen, locked or off", "plan", "--lock=never")
	if s.read("bake.lock") != before {
		t.Error("a command other than pin and update wrote the lock")
	}
}

// TestPinInPlace shows that pin --in-place adds digests to FROM lines and leaves the rest of the files as it is.
func TestPinInPlace(t *testing.T) {
	s := newPinSite(t)
	s.push("team/base:1.2.3", "", 1, runtime.GOARCH)
	d := s.push("team/base:1.2.4", "", 1, runtime.GOARCH)
	s.project()
	real := filepath.Join(s.dir, "b", "real")
	link := filepath.Join(s.dir, "b", "Dockerfile")
	if err := os.Rename(link, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	a, b := s.read("a/Dockerfile"), s.read("b/Dockerfile")
	out, stderr := s.bake(0, "b/Dockerfile\n", "pin", "--in-place")
	if out != "b/Dockerfile\n" {
		t.Errorf("it says %q", out)
	}
	wantMatch(t, "what stays", stderr,
		`(?s)b/Dockerfile:4: \S+TAG\S+ not changed: .*bake.hcl:1: base shared not changed: `)
	want := strings.Replace(b, "FROM "+s.host+"/team/base:1.2.4", "FROM "+s.host+"/team/base:1.2.4@"+d, 1)
	if diff := cmp.Diff(want, s.read("b/Dockerfile")) + cmp.Diff(a, s.read("a/Dockerfile")); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone", err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
		t.Error("the mode changed", info.Mode())
	}
	if _, err := os.Stat(filepath.Join(s.dir, "bake.lock")); err == nil {
		t.Error("--in-place wrote a lock")
	}
	if out, _ := s.bake(0, "", "pin", "--in-place"); out != "" {
		t.Errorf("the second time it changes %q", out)
	}
	// A lock that differs from the Dockerfile is refused. Its image exists, so that nothing else fails.
	l := config.NewLock()
	l.Images[s.host+"/team/base:1.2.4"] = config.ImagePin{Digest: digest.Digest(s.push("team/base:1.2.4", "", 2,
		runtime.GOARCH))}
	if err := l.Write(s.dir); err != nil {
		t.Fatal(err)
	}
	s.bake(3, "b/Dockerfile:3: ", "plan", "b")
}

// TestPinResolves shows that pin --resolve requests only the pins on which the sides of a merge differ.
func TestPinResolves(t *testing.T) {
	s := newPinSite(t)
	s.push("team/base:1.2.3", "", 1, runtime.GOARCH)
	s.push("team/base:1.2.4", "", 1, runtime.GOARCH)
	s.project()
	s.bake(0, "", "pin")
	want := s.read("bake.lock")
	locked := s.lock().Pin(s.host + "/team/base:1.2.4")
	line := "  digest = \"" + locked + "\"\n"
	other := "  digest = \"sha256:1111111111111111111111111111111111111111111111111111111111111111\"\n"
	s.write("bake.lock", strings.Replace(want, line, "<<<<<<< ours\n"+line+"=======\n"+other+">>>>>>> theirs\n", 1))
	s.bake(2, "bake pin --resolve", "plan")
	s.requests("")
	s.bake(0, "pins that differ between the merge sides: HOST/team/base:1.2.4", "pin", "--resolve")
	if asked := s.requests("/manifests/1.2"); slices.ContainsFunc(asked,
		func(r string) bool { return strings.HasSuffix(r, "1.2.3") }) || len(asked) == 0 {
		t.Errorf("it requested %v", asked)
	}
	if d := cmp.Diff(want, s.read("bake.lock")); d != "" {
		t.Error(d)
	}
}
