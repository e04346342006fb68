package embedded

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

const stageAndCopy = "FROM scratch AS build\nCOPY src.txt /src.txt\nRUN [\"copy\", \"/src.txt\", \"/out.txt\"]\n" +
	"FROM scratch\nCOPY --from=build /out.txt /out.txt\nRUN [\"copy\", \"/out.txt\", \"/end.txt\"]\n"

// TestClaimedAlias: one cache says that a stage has old files, and another has the copy of the old files. A build that
// names both decides nothing about builds that name the second one alone.
func TestClaimedAlias(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": stageAndCopy, "src.txt": "old"})
	all := []string{"copy /src.txt /out.txt", "copy /out.txt /end.txt"}
	v.must(all...)
	f := v.forge()
	oldCopy, oldLayers := *f.entry("COPY --from=build /out.txt /out.txt"), f.index.Layers
	oldStage := *f.entry(`"/src.txt", "/out.txt"]`)
	oldCopy.Aliases, oldCopy.Selections = nil, nil
	v.write(map[string]string{"src.txt": "new"})
	v.use(nil, nil)
	v.must(all...)
	f = v.forge()
	for _, l := range oldLayers {
		known := false
		for _, k := range f.index.Layers {
			known = known || k.ID == l.ID
		}
		if !known {
			f.index.Layers = append(f.index.Layers, l)
		}
	}
	stage := *f.entry(`"/src.txt", "/out.txt"]`)
	stage.Selections = nil
	lie := stage
	lie.Outputs = oldStage.Outputs
	f.index.Entries = []remotecache.Entry{stage, oldCopy}
	honest := f.write()
	f.index.Entries = []remotecache.Entry{lie}
	lying := f.write()

	v.move(nil, nil)
	v.use2(lying, honest)
	v.must("copy /out.txt /end.txt")
	if got := v.built("/end.txt"); got != "old" {
		t.Fatalf("the lie is not believed by the build that names it: %q", got)
	}
	v.use(local("src", honest), nil)
	v.mustRun("copy /out.txt /end.txt")
	if got := v.built("/end.txt"); got != "new" {
		t.Errorf("with the honest cache alone: %q", got)
	}
}

// TestSelectedByClaim: a step that is served from a result of this machine, because a cache claims the content of what
// it reads, is reported as claimed.
func TestSelectedByClaim(t *testing.T) {
	const files = "FROM scratch AS build\nCOPY src.txt /src.txt\nFROM scratch\nCOPY --from=build /src.txt /out.txt\n"
	v := newTraveller(t, map[string]string{"Dockerfile": files, "src.txt": "good"})
	v.must()
	good := v.forge().entry("COPY src.txt /src.txt").Selections
	v.write(map[string]string{"src.txt": "evil"})
	v.use(nil, nil)
	v.must()
	f := v.forge()
	stage := *f.entry("COPY src.txt /src.txt")
	stage.Selections = good
	f.index.Entries = []remotecache.Entry{stage}
	dir := f.write()

	v.write(map[string]string{"src.txt": "good"})
	v.move(nil, nil)
	v.must()
	v.targets[0].Stage = "build"
	v.write(map[string]string{"src.txt": "evil"})
	v.must()
	v.targets[0].Stage = ""
	v.use(local("src", dir), nil)
	report := v.must()
	steps := v.graph().Steps
	for i, s := range report.Steps {
		if wrong, claimed := strings.Contains(steps[i].Name, "--from"), s.Claim != ""; wrong != claimed {
			t.Errorf("%s is claimed by %q", steps[i].Name, s.Claim)
		}
	}
	if got := v.built("/out.txt"); got != "good" {
		t.Errorf("the claim selects %q", got)
	}
	v.use(nil, nil)
	for i, s := range v.must().Steps {
		if s.Claim != "" {
			t.Errorf("without the cache, %s is claimed by %q", steps[i].Name, s.Claim)
		}
	}
	if got := v.built("/out.txt"); got != "evil" {
		t.Errorf("without the cache: %q", got)
	}
}

// TestChecksumAfterAnswer: a checksum is compared although the server says that the file did not change.
func TestChecksumAfterAnswer(t *testing.T) {
	text := "text"
	at := fileServer(t, &text)
	var asked []string
	counting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("If-None-Match"))
		http.Redirect(w, r, at+r.URL.Path, http.StatusFound)
	}))
	defer counting.Close()
	v := newTraveller(t, nil)
	add := func(flag string) error {
		v.write(map[string]string{"Dockerfile": "FROM scratch\nADD " + flag + counting.URL + "/f /\n"})
		_, _, err := v.run()
		return err
	}
	if err := add(""); err != nil {
		t.Fatal(err)
	}
	wrong := digest.FromString("other")
	if err := add("--checksum=" + wrong.String() + " "); err == nil || !strings.Contains(err.Error(), wrong.String()) {
		t.Errorf("a wrong checksum: %v", err)
	}
	if err := add("--checksum=" + digest.FromString(text).String() + " "); err != nil {
		t.Errorf("the right checksum: %v", err)
	}
	if err := add(""); err != nil {
		t.Error(err)
	}
	if len(asked) < 2 || asked[0] != "" || asked[1] != "" || asked[len(asked)-1] == "" {
		t.Errorf("tags that were sent: %q", asked)
	}
}
