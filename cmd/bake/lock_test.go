package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

// pinned is a project with targets on bases of a registry that counts the requests for manifests.
type pinned struct {
	*cli
	host      string
	manifests atomic.Int64
}

// newPinned returns the project without a lock.
func newPinned(t *testing.T) *pinned {
	p := &pinned{cli: newCLI(t)}
	p.env["CI"] = ""
	serve := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			p.manifests.Add(1)
		}
		serve.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.host = strings.TrimPrefix(server.URL, "http://")
	p.move(t, "base:1")
	p.move(t, "base:2")
	p.write(t, "file", "x")
	p.project(t, "shared")
	return p
}

// move pushes a new image under a tag and returns its digest.
func (p *pinned) move(t *testing.T, tag string) string {
	t.Helper()
	image, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, p.host+"/team/"+tag, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// project writes a project file with twenty targets. The last copies from a base.
func (p *pinned) project(t *testing.T, last string) {
	var b strings.Builder
	b.WriteString("base \"shared\" {\n  image = \"" + p.host + "/team/base:1\"\n}\n" +
		"group \"default\" {\n  targets = [\"many\", \"direct\", \"other\"]\n}\n")
	b.WriteString("target \"many\" {\n  name = \"many-${n}\"\n  matrix = { n = range(18) }\n" +
		"  dockerfile-inline = \"FROM shared\\nLABEL n=${n}\\nCOPY file /\"\n  output = [\"type=cacheonly\"]\n}\n")
	b.WriteString("target \"direct\" {\n  dockerfile-inline = \"FROM scratch AS shared\\nFROM " + p.host +
		"/team/base:1\\nCOPY file /\"\n  output = [\"type=cacheonly\"]\n}\n")
	b.WriteString("target \"other\" {\n  dockerfile-inline = \"FROM " + p.host + "/team/base:2\\nCOPY --from=" + last +
		" / /all/\"\n  output = [\"type=cacheonly\"]\n}\n")
	p.write(t, "bake.hcl", b.String())
}

// fails runs bake, which must exit with a code and a message that contains a text.
func (p *pinned) fails(t *testing.T, want int, text string, args ...string) {
	t.Helper()
	if _, stderr, code := p.run(t, args...); code != want || !strings.Contains(stderr, text) {
		t.Errorf("%v: exit %d, want %d and %q: %s", args, code, want, text, stderr)
	}
}

// TestLock shows that builds use the pins of bake.lock without requests to the registry until update moves them, and
// that outdated lists pins whose tag has moved.
func TestLock(t *testing.T) {
	needSandbox(t)
	p := newPinned(t)
	p.fails(t, 3, "create and commit it: bake pin", "build", "--frozen", "--progress=none")
	out, _ := p.ok(t, "pin")
	wantMatch(t, "two pins", out, `(?s)^\+ \S+/team/base:1 sha256:\S+\n\+ \S+/team/base:2 sha256:\S+\n$`)
	p.ok(t, "verify", "--online")
	p.ok(t, "build", "--progress=none")

	old := p.move(t, "base:1")
	p.manifests.Store(0)
	p.ok(t, "build", "--frozen", "--progress=none")
	p.ok(t, "build", "--locked", "--no-cache", "--progress=none")
	if n := p.manifests.Load(); n != 0 {
		t.Errorf("a frozen build sent %d requests for manifests", n)
	}
	out, _ = p.ok(t, "plan", "--exit-code")
	wantMatch(t, "nothing to run", out, "0 to run|nothing|cached")

	p.fails(t, 6, "1 pin out of date", "outdated", "--exit-code")
	out, _ = p.ok(t, "outdated")
	wantMatch(t, "the table", out,
		`(?s)REFERENCE +LOCKED +CURRENT +AGE +NEWER TAGS +USED BY\n\S+/team/base:1 +sha256:\S+ +`+old[:19]+
			` +- +2 +direct, many-0 and 18 more\n\nDrift\n\S+/team/base\n`+
			` +\S+base:1 +\S+ +locked +direct.* dockerfile-inline of direct:2, `+
			`dockerfile-inline of many-0:1 and 18 more\n`+
			` +\S+base:2 .*locked +other +dockerfile-inline of other:1\n$`)
	out, _ = p.ok(t, "outdated", "--format=json")
	wantMatch(t, "JSON", out, `"version": 1`)

	out, _ = p.ok(t, "pin")
	if out != "" {
		t.Errorf("pin moved something: %s", out)
	}
	out, _ = p.ok(t, "update", "--dry-run", "base:1")
	wantMatch(t, "what would move", out, `team/base:1\n  from sha256:\S+\n  to   `+old+`\n  rebuilds direct, many-0`)
	p.fails(t, 6, "", "outdated", "--exit-code")
	p.fails(t, 2, `no reference matches "nothing"`, "update", "nothing")
	p.ok(t, "update", "shared")
	p.ok(t, "outdated", "--exit-code")

	// On another machine the lock alone decides what the tag means, unless it is turned off.
	other := &cli{dir: p.dir, cache: t.TempDir(), env: p.env}
	other.ok(t, "build", "--frozen", "--progress=none")
	other.ok(t, "history", p.host+"/team/base:1")
	newest := p.move(t, "base:1")
	other.ok(t, "build", "--lock=off", "--progress=none", "direct")
	out, _ = other.ok(t, "image", "ls", "--json")
	wantMatch(t, "what the tag names now", out, newest)
	p.ok(t, "update")
}

// TestLockEntries shows that a missing pin is an error or a note, that an unused one is an error where that is
// requested and is dropped by pin, and that a malformed lock is an error.
func TestLockEntries(t *testing.T) {
	needSandbox(t)
	p := newPinned(t)
	p.ok(t, "pin")
	p.move(t, "base:3")
	p.project(t, p.host+"/team/base:3")
	p.fails(t, 3, "bake.lock has no entry for "+p.host+"/team/base:3", "build", "--frozen", "--progress=none")
	p.fails(t, 3, "bake.lock has no entry for "+p.host+"/team/base:3", "verify")
	_, stderr := p.ok(t, "build", "--progress=none")
	wantMatch(t, "what is missing", stderr, `bake.lock does not pin \S+/team/base:3`)
	p.ok(t, "pin")
	p.ok(t, "verify")
	p.project(t, "shared")
	p.fails(t, 3, "has unused pins: ", "verify")
	p.fails(t, 3, "has unused pins: ", "build", "--locked", "--progress=none")
	out, _ := p.ok(t, "pin")
	wantMatch(t, "what is dropped", out, `^- \S+/team/base:3\n$`)
	p.write(t, "bake.lock", "version = 1\nimage \"x\" {\n")
	p.fails(t, 2, "bake.lock:", "build", "--progress=none")
	p.ok(t, "build", "--lock=off", "--progress=none")
}

// TestLockPolicies shows that policies see the bases and their pins, and that a violated one is an error or a warning.
func TestLockPolicies(t *testing.T) {
	needSandbox(t)
	p := newPinned(t)
	p.ok(t, "pin")
	rule := func(text string) {
		p.project(t, "shared")
		old, err := os.ReadFile(filepath.Join(p.dir, "bake.hcl"))
		if err != nil {
			t.Fatal(err)
		}
		p.write(t, "bake.hcl", string(old)+"policy \"rule\" {\n"+text+"\n}\n")
	}
	rule(`rule = "base.tag == '1' || !('other' in base.targets)"` + "\n" + `message = "one tag for all"`)
	for _, command := range [][]string{{"plan"}, {"build", "--progress=none"}, {"verify"}} {
		p.fails(t, 4, "policy rule: base "+p.host+"/team/base:2: one tag for all", command...)
	}
	rule(`rule = "base.locked && base.registry == '` + p.host + `' && target.name != ''"`)
	p.ok(t, "plan")
	rule(`rule = "base.locked && base.official"` + "\n" + `level = "warn"`)
	_, stderr := p.ok(t, "plan")
	wantMatch(t, "a warning", stderr, `warning: bake.hcl:\d+: policy rule: base \S+/team/base:1: rule is false`)
}
