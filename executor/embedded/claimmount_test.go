package embedded

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// TestClaimedSeedOfNewMount: a build with --no-cache fills a cache mount with files of a remote cache. A build that
// does not name the cache does not see them, and a mount of this machine stays as it is.
func TestClaimedSeedOfNewMount(t *testing.T) {
	for _, first := range []string{"no mount", "a mount of this machine"} {
		t.Run(first, func(t *testing.T) {
			image := strings.Replace(stageReaders["part of a cache mount"], "FROM scratch", "FROM scratch AS last", 1)
			v, from := newClaimedStage(t, image)
			own, runs := "", []string{"time /in/a.o /when", "write /d/a.o object"}
			if first != "no mount" {
				v.use(nil, nil)
				v.mustRun(runs...)
				own, runs = v.built("/when"), runs[:1]
			}
			v.use(from, nil)
			v.targets[0].NoCacheFilter = []string{"last"}
			v.mustRun("time /in/a.o /when")
			v.targets[0].NoCacheFilter = nil
			v.use(nil, nil)
			v.write(map[string]string{"Dockerfile": strings.Replace(image, "RUN", "ENV A=1\nRUN", 1)})
			v.mustRun(runs...)
			got := v.built("/when")
			if got == strconv.FormatInt(forgedTime.Unix(), 10) || own != "" && got != own {
				t.Errorf("without the cache the time is %s", got)
			}
		})
	}
}

// TestClaimedMountWithClaimedSeed: one cache has the mount, damaged, and another the stage that fills it then. What it
// holds serves only builds that name both.
func TestClaimedMountWithClaimedSeed(t *testing.T) {
	v, stage := newClaimedStage(t, stageReaders["part of a cache mount"])
	v.use(nil, nil)
	v.mustRun("time /in/a.o /when", "write /d/a.o object")
	f := v.forge()
	f.index.Entries = nil
	if len(f.index.Mounts) != 1 {
		t.Fatalf("the cache has %d mounts", len(f.index.Mounts))
	}
	mounts := local("src", f.write())
	packs, err := filepath.Glob(filepath.Join(mounts["src"], "mounts.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	if err := os.Truncate(packs[0], 5); err != nil {
		t.Fatal(err)
	}
	v.move(mounts, nil)
	v.use2(mounts["src"], stage["src"])
	v.tell()
	v.mustRun("time /in/a.o /when")
	if got := v.built("/when"); got != strconv.FormatInt(forgedTime.Unix(), 10) {
		t.Errorf("with both caches the time is %s", got)
	}
	v.use(mounts, nil)
	v.mustRun("time /in/a.o /when", "write /d/a.o object")
	if got := v.built("/when"); got == strconv.FormatInt(forgedTime.Unix(), 10) {
		t.Errorf("with the cache of the mount alone the time is %s", got)
	}
}

// TestClaimedMountOfItsCache: a mount with the name of one cache is filled from that cache, although another that is
// named before it has the mount too.
func TestClaimedMountOfItsCache(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN --mount=type=cache,id=one,target=/m [\"write\", \"/x\", \"1\"]\n",
	})
	dirs := make([]string, 2)
	for i := range dirs {
		v.newCache()
		m, err := v.store.CacheMount(t.Context(), "/one", "shared", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.Dir, "by"), []byte{byte('0' + i)}, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := m.Filled(); err != nil {
			t.Fatal(err)
		}
		m.Release()
		v.must("write /x 1")
		dirs[i] = v.forge().write()
	}
	v.move(nil, nil)
	v.use2(dirs[0], dirs[1])
	b := v.begin()
	for i, s := range b.imports.sources {
		m, err := v.store.CacheMount(t.Context(), filledName("/one", taint{s.origin.ID()}), "private", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Release()
		if filled, err := b.fillMount(t.Context(), "/one", s, m); err != nil || !filled {
			t.Fatal(filled, err)
		}
		if by, err := os.ReadFile(filepath.Join(m.Dir, "by")); err != nil || string(by) != strconv.Itoa(i) {
			t.Errorf("the mount of cache %d is filled by %q, %v", i, by, err)
		}
	}
}

// fileServer serves one text with a tag at every path, with the time of the server's choice.
func fileServer(t *testing.T, text *string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tag := strconv.Quote(digest.FromString(*text).Encoded())
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("ETag", tag)
		w.Header().Set("Last-Modified", "Fri, 01 Jan 2021 00:00:00 GMT")
		_, _ = w.Write([]byte(*text))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestClaimedTimesOfURL: a cache has the file of a URL with another time. It serves builds that name the cache, and no
// others.
func TestClaimedTimesOfURL(t *testing.T) {
	text := "object"
	for _, checksum := range []string{"", "--checksum=" + digest.FromString(text).String() + " "} {
		t.Run(checksum, func(t *testing.T) {
			v := newTraveller(t, map[string]string{
				"Dockerfile": "FROM scratch\nADD " + checksum + fileServer(t, &text) + "/a.o /in/\n" + readTime,
			})
			v.tell()
			v.mustRun("time /in/a.o /when")
			own := v.built("/when")
			f := v.forge()
			f.layerOf(nameOf("6"), "a.o", text, forgedTime)
			var kept []remotecache.Entry
			for _, e := range f.index.Entries {
				if len(e.Lookups) == 0 && strings.Contains(e.Name, "ADD") { // the source; the copy has look-ups
					serveLayer(&e, nameOf("6"))
					kept = append(kept, e)
				}
				if len(e.Outputs) == 0 { // the answer of the server
					kept = append(kept, e)
				}
			}
			f.index.Entries = kept
			from := local("src", f.write())
			v.move(from, nil)
			v.tell()
			v.mustRun("time /in/a.o /when")
			if got := v.built("/when"); got != strconv.FormatInt(forgedTime.Unix(), 10) {
				t.Errorf("with the cache the time is %s", got)
			}
			v.use(nil, nil)
			v.mustRun("time /in/a.o /when")
			if got := v.built("/when"); got != own {
				t.Errorf("without the cache the time is %s, not %s", got, own)
			}
		})
	}
}

// TestClaimedAnswer: a cache says that a URL has the content of another file that is here. The step says that this is a
// claim, and builds without the cache get what the URL has.
func TestClaimedAnswer(t *testing.T) {
	text := "old"
	old, now := fileServer(t, &text), "new"
	other := fileServer(t, &now)
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nADD " + old + "/f /\n"})
	v.must()
	f := v.forge()
	at := key.Of([]key.Part{{Name: "answer of", Digest: other + "/f"}})
	f.index.Entries = []remotecache.Entry{{Entry: cache.Entry{ID: at, Key: at, Name: other, Lookups: []cache.Lookup{
		{Path: answerTag, Answer: strconv.Quote(digest.FromString(now).Encoded())},
		{Path: answerContent, Answer: digest.FromString(text).String()},
	}}}}
	dir := f.write()
	v.write(map[string]string{"Dockerfile": "FROM scratch\nADD " + other + "/f /\n"})
	for _, from := range []config.Attrs{local("src", dir), nil} {
		v.use(from, nil)
		report := v.mustRun()
		claim, want := report.Steps[0].Claim, map[bool]string{true: text, false: now}[from != nil]
		if got := v.built("/f"); got != want || (claim != "") != (from != nil) {
			t.Errorf("with %v: %q, claimed by %q", from, got, claim)
		}
	}
}
