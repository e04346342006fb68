package embedded

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/carry"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner"
)

// staged has two steps in a stage that is left behind, and an image of three.
const staged = `FROM scratch AS build
COPY src.txt /src.txt
RUN ["count", "/tool"]
RUN ["copy", "/src.txt", "/out.txt"]
FROM scratch
COPY first.txt /first.txt
RUN ["count", "/base.txt"]
COPY --from=build /out.txt /out.txt
COPY last.txt /last.txt
`

var stagedFiles = map[string]string{"Dockerfile": staged, "src.txt": "src", "first.txt": "first", "last.txt": "last"}

// traveller is a site whose caches travel.
type traveller struct {
	*site
	caches Caches
	warned []string
	mu     sync.Mutex
}

func newTraveller(t *testing.T, files map[string]string) *traveller {
	t.Helper()
	v := &traveller{site: newSite(t, files)}
	v.opts.Warn = func(text string) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.warned = append(v.warned, text)
	}
	return v
}

// to and from set what the next builds write and read.
func (v *traveller) use(from, to config.Attrs) {
	v.caches = Caches{From: map[string][]config.Attrs{}, To: map[string][]config.Attrs{}}
	for _, target := range v.targets {
		if from != nil {
			v.caches.From[target.Name] = []config.Attrs{from}
		}
		if to != nil {
			v.caches.To[target.Name] = []config.Attrs{to}
		}
	}
	v.engine = v.engine.WithCaches(v.caches)
}

// move goes on with an empty cache, as on another machine, in another directory and with other times of files.
func (v *traveller) move(from, to config.Attrs) {
	v.t.Helper()
	dir := filepath.Join(v.t.TempDir(), "elsewhere")
	if err := os.CopyFS(dir, os.DirFS(v.dir)); err != nil {
		v.t.Fatal(err)
	}
	v.dir = dir
	v.newCache()
	v.use(from, to)
}

// noWarnings fails the test when something was warned of, and forgets it.
func (v *traveller) noWarnings() {
	v.t.Helper()
	for _, w := range v.warned {
		v.t.Errorf("warned: %s", w)
	}
	v.warned = nil
}

// wantWarning wants a warning with a text, and forgets all.
func (v *traveller) wantWarning(text string) {
	v.t.Helper()
	if !slices.ContainsFunc(v.warned, func(w string) bool { return strings.Contains(w, text) }) {
		v.t.Errorf("no warning says %q: %q", text, v.warned)
	}
	v.warned = nil
}

// layersHere counts the unpacked layers.
func (v *traveller) layersHere() int {
	v.t.Helper()
	names, err := os.ReadDir(filepath.Join(v.store.Dir(), "layers"))
	if err != nil {
		v.t.Fatal(err)
	}
	return len(slices.DeleteFunc(names, func(e os.DirEntry) bool { return e.Name() == emptyLayer.Encoded() }))
}

// dirState is what the files of a directory are: their size, time and identity. When they were read does not count.
func dirState(t *testing.T, dir string) map[string]string {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, n := range names {
		info, err := n.Info()
		if err != nil {
			t.Fatal(err)
		}
		all[n.Name()] = fmt.Sprint(info.Size(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ino)
	}
	return all
}

func local(key, dir string, more ...string) config.Attrs {
	a := config.Attrs{"type": "local", key: dir}
	for i := 0; i < len(more); i += 2 {
		a[more[i]] = more[i+1]
	}
	return a
}

func TestCarriedInDirectory(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	dir := filepath.Join(t.TempDir(), "deep", "cache")
	v.use(nil, local("dest", dir, "mode", "max"))
	oci := filepath.Join(t.TempDir(), "out.tar")
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": oci}}
	first := v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	before := dirState(t, dir)
	if len(before) < 3 || len(before) > 19 {
		t.Errorf("%d files: %q", len(before), slices.Sorted(maps.Keys(before)))
	}
	v.must()
	if after := dirState(t, dir); !maps.Equal(before, after) {
		t.Errorf("an export of an unchanged cache wrote files: %v, then %v", before, after)
	}

	// Another machine, which builds no output: nothing runs, and nothing is fetched.
	v.targets[0].Outputs = []config.Attrs{{"type": "cacheonly"}}
	v.move(local("src", dir), nil)
	v.must()
	if n := v.layersHere(); n != 0 {
		t.Errorf("%d layers were fetched, want none", n)
	}
	// Its image is the same, and is made of the blobs as they are.
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": oci}}
	again := v.must()
	if again.Images[0].Digest != first.Images[0].Digest {
		t.Errorf("the image is %s, then %s", first.Images[0].Digest, again.Images[0].Digest)
	}
	if n := v.layersHere(); n != 0 {
		t.Errorf("%d layers were unpacked for an image, want none", n)
	}
	v.noWarnings()

	// A changed file at the end: the layers below are looked into by their paths.
	v.targets[0].Outputs = []config.Attrs{{"type": "cacheonly"}}
	v.write(map[string]string{"last.txt": "changed"})
	v.must()
	if n := v.layersHere(); n != 1 {
		t.Errorf("%d layers are here, want the new one alone", n)
	}
	// A changed file of the other stage: the tool below the command that runs is fetched.
	v.write(map[string]string{"src.txt": "changed"})
	v.must("count /tool", "copy /src.txt /out.txt")
	if got := v.file("api", "/out.txt"); got != "changed" {
		t.Errorf("out.txt is %q", got)
	}
	if got := v.file("api", "/base.txt"); got == "" {
		t.Error("base.txt is empty")
	}
	v.noWarnings()
}

// TestCarriedOn exports a cache that came from elsewhere and was not opened, and changes one layer.
func TestCarriedOn(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	dir, other := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	v.use(nil, local("dest", dir, "mode", "max"))
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	before := dirState(t, dir)

	v.move(local("src", dir), local("dest", dir, "mode", "max"))
	v.must()
	if after := dirState(t, dir); !maps.Equal(before, after) {
		t.Errorf("an export of what came from there wrote files: %v, then %v", before, after)
	}
	v.move(local("src", dir), local("dest", other, "mode", "max"))
	v.must()
	if n := v.layersHere(); n != 0 {
		t.Errorf("%d layers were unpacked to be handed on", n)
	}
	v.move(local("src", other), local("dest", other, "mode", "max"))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	was := dirState(t, other)
	v.write(map[string]string{"last.txt": "changed"})
	v.must()
	is := dirState(t, other)
	changed := 0
	for name := range is {
		if is[name] != was[name] {
			changed++
		}
	}
	if changed == 0 || changed > 4 { // the index, the paths, the pack of the new layer and that of the old one
		t.Errorf("%d files changed: %v, then %v", changed, was, is)
	}
	v.move(local("src", other), nil)
	v.must()
	v.noWarnings()
}

// TestCarriedMin leaves the layers of the other stage behind: as long as its files are not needed it does not run.
func TestCarriedMin(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	dir := t.TempDir()
	v.use(nil, local("dest", dir))
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	v.move(local("src", dir), nil)
	v.must()
	v.write(map[string]string{"last.txt": "changed"})
	v.must()
	v.write(map[string]string{"src.txt": "changed"})
	v.must("count /tool", "copy /src.txt /out.txt")
	v.move(local("src", dir), nil)
	v.write(map[string]string{"Dockerfile": strings.Replace(staged, `RUN ["copy", "/src.txt"`, `RUN ["copy", "/tool"`, 1), "src.txt": "src"})
	v.mustRun("copy /tool /out.txt", "count /tool")
	v.noWarnings()
}

// mustRun is must where the preview cannot know what is lacking.
func (v *traveller) mustRun(commands ...string) *executor.Report {
	v.t.Helper()
	ran, report, err := v.run()
	if err != nil {
		v.t.Fatal(err)
	}
	slices.Sort(commands)
	if !slices.Equal(ran, commands) {
		v.t.Errorf("ran %q, want %q", ran, commands)
	}
	return report
}

// TestCarriedDamage flips bytes of every pack: the build is as without the cache, and its export mends it.
func TestCarriedDamage(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	dir := t.TempDir()
	v.use(nil, local("dest", dir, "mode", "max"))
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	packs, err := filepath.Glob(filepath.Join(dir, "*.pack"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, p := range packs {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)-20] ^= 1
		if err := os.WriteFile(p, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": filepath.Join(t.TempDir(), "out.tar")}}
	v.move(local("src", dir), local("dest", dir, "mode", "max"))
	if _, _, err := v.run(); err != nil {
		t.Fatal(err)
	}
	v.wantWarning("is made again")
	// Each build finds what of the damage it opens, which depends on ids that are drawn; at last all of it is mended.
	for range packs {
		v.move(local("src", dir), local("dest", dir, "mode", "max"))
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		if len(v.warned) == 0 {
			break
		}
		v.wantWarning("is made again")
	}
	v.move(local("src", dir), nil)
	v.must()
	v.noWarnings()
}

// TestCarriedMissing exports a cache of which packs are gone that the build does not read: what cannot be had is left out, and the rest
// is written.
func TestCarriedMissing(t *testing.T) {
	files := maps.Clone(stagedFiles)
	files["Dockerfile"] = strings.Replace(staged, `RUN ["count", "/tool"]`, `RUN --mount=type=cache,target=/m ["count", "/tool"]`, 1)
	v := newTraveller(t, files)
	dir := t.TempDir()
	to := local("dest", dir, "mode", "max", "mounts", "true")
	v.use(nil, to)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	packs, err := filepath.Glob(filepath.Join(dir, "*.pack"))
	if err != nil || !slices.Contains(packs, filepath.Join(dir, "mounts.pack")) {
		t.Fatal(packs, err)
	}
	for _, p := range packs {
		if filepath.Base(p) == "paths.pack" {
			continue
		}
		if err := os.Truncate(p, 5); err != nil {
			t.Fatal(err)
		}
		v.move(local("src", dir), to)
		v.must()
		v.noWarnings()
	}
	// What is left is an index without layers: all is made again where it is needed.
	v.move(local("src", dir), to)
	v.write(map[string]string{"src.txt": "changed"})
	v.mustRun("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	v.noWarnings()
}

// TestCarriedDroppedByRegistry has a registry lose a layer: it is made again, comes to the same blob, and the next export sends that
// though the cache that is there names it.
func TestCarriedDroppedByRegistry(t *testing.T) {
	var mu sync.Mutex
	dropped := map[string]bool{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Method == http.MethodPut {
			delete(dropped, r.URL.Query().Get("digest"))
		}
		gone := strings.Contains(r.URL.Path, "/blobs/sha256:") && dropped[path.Base(r.URL.Path)]
		mu.Unlock()
		if gone {
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"gone"}]}`, http.StatusNotFound)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/cache:main"
	cached := config.Attrs{"type": "registry", "ref": ref}
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /a.txt\n", "a.txt": "one"})
	v.targets[0].Outputs = []config.Attrs{{"type": "oci", "dest": filepath.Join(t.TempDir(), "out.tar")}}
	v.client = registry.New(registry.Options{})
	v.newCache()
	v.use(nil, cached)
	v.must()
	there, err := v.client.Artifact(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for _, l := range there.Manifest.Layers[1:] { // all but the index
		dropped[l.Digest.String()] = true
	}
	mu.Unlock()
	v.move(cached, cached)
	v.mustRun()
	v.wantWarning("is made again")
	v.move(cached, cached)
	v.must()
	v.noWarnings()
}

// TestCarriedFaults tries caches that cannot be read or written: each is a warning.
func TestCarriedFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	buildkit := t.TempDir()
	if err := os.WriteFile(filepath.Join(buildkit, "index.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := t.TempDir()
	if err := os.WriteFile(filepath.Join(garbage, "index.zst"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name     string
		from, to config.Attrs
		want     string
	}{
		{"inline", config.Attrs{"type": "inline"}, nil, "carry no cache"},
		{"gha", nil, config.Attrs{"type": "gha"}, "type=local or type=registry"},
		{"no directory", nil, config.Attrs{"type": "local"}, "needs dest=DIR"},
		{"mode", nil, local("dest", t.TempDir(), "mode", "all"), "want min or max"},
		{"attribute", nil, local("dest", t.TempDir(), "colour", "red"), "does not know the attribute colour"},
		{"a file", nil, local("dest", file), "is not written"},
		{"of BuildKit", local("src", buildkit), nil, "only BuildKit reads"},
		{"garbage", local("src", garbage), nil, "is not used"},
		{"no registry", config.Attrs{"type": "registry", "ref": "127.0.0.1:1/x"}, nil, "is not used"},
		{"no name", config.Attrs{"type": "registry", "ref": "X Y"}, nil, "ref=X Y"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
			v.client = registry.New(registry.Options{Backoff: func(int) time.Duration { return 0 }})
			v.newCache()
			v.use(c.from, c.to)
			v.must("copy /a.txt /b.txt")
			v.wantWarning(c.want)
		})
	}
	t.Run("nothing there yet", func(t *testing.T) {
		v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
		v.use(local("src", filepath.Join(t.TempDir(), "none")), nil)
		v.must("copy /a.txt /b.txt")
		v.noWarnings()
	})
}

// TestCarriedMounts takes cache mounts along that were asked for.
func TestCarriedMounts(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /a\nRUN --mount=type=cache,id=one,target=/m --mount=type=cache,target=/n [\"write\", \"/x\", \"1\"]\n", "a.txt": "a"})
	dir := t.TempDir()
	v.use(nil, local("dest", dir, "mounts", "one;other"))
	at := time.Unix(1700000000, 987654321)
	v.runner.hold = nil
	v.must("write /x 1")
	fill := func(id string) string {
		m, err := v.store.SeededMount(id)
		if err != nil || m == nil {
			t.Fatal(id, m, err)
		}
		defer m.Release()
		return m.Dir
	}
	inside := filepath.Join(fill("/one"), "sub", "file")
	if err := os.MkdirAll(filepath.Dir(inside), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inside, []byte("kept"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(inside, at, at); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fill("//n"), "file"), []byte("left"), 0o640); err != nil {
		t.Fatal(err)
	}
	v.must()
	v.move(local("src", dir), nil)
	v.write(map[string]string{"a.txt": "changed"})
	v.must("write /x 1")
	inside = filepath.Join(fill("/one"), "sub", "file")
	text, err := os.ReadFile(inside)
	info, serr := os.Stat(inside)
	if err != nil || serr != nil || string(text) != "kept" || !info.ModTime().Equal(at) || info.Mode().Perm() != 0o640 {
		t.Errorf("%q %v %v %v", text, info, err, serr)
	}
	if names, err := os.ReadDir(fill("//n")); err != nil || len(names) > 0 {
		t.Errorf("the other mount has %v, %v", names, err)
	}
	v.noWarnings()
}

// counts are the requests of a registry, by method and kind.
type counts struct {
	mu  sync.Mutex
	all map[string]int
}

func (c *counts) add(r *http.Request) {
	kind := "other"
	for _, k := range []string{"manifests", "blobs"} {
		if strings.Contains(r.URL.Path, "/"+k+"/") {
			kind = k
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[r.Method+" "+kind]++
}

// take gives the counts since the last call.
func (c *counts) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = map[string]int{}
	return all
}

func TestCarriedInRegistry(t *testing.T) {
	c := &counts{all: map[string]int{}}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.add(r); inner.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/cache:main"
	v := newTraveller(t, stagedFiles)
	place := config.Attrs{"type": "registry", "ref": ref}
	to := config.Attrs{"type": "registry", "ref": ref, "mode": "max"}
	newClient := func() { v.client = registry.New(registry.Options{}); v.newCache() }
	newClient()
	v.use(place, to)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	c.take()
	v.must()
	if got := c.take(); got["POST blobs"]+got["PUT blobs"]+got["PUT manifests"]+got["HEAD blobs"]+got["GET blobs"] > 0 || got["GET manifests"] != 1 {
		t.Errorf("an unchanged cache is exported with %v", got)
	}

	newClient()
	v.move(place, nil)
	c.take()
	v.mustRun()
	if got := c.take(); got["GET blobs"] != 1 || got["GET manifests"] != 1 {
		t.Errorf("a build without output on a new machine asked for %v, want one manifest and the index", got)
	}
	// One changed file: the new layer and what says where it is are sent, and no layer is fetched.
	v.move(place, to)
	c.take()
	v.write(map[string]string{"last.txt": "changed"})
	v.mustRun()
	got := c.take()
	if got["PUT manifests"] != 2 || got["GET blobs"] > 6 || v.layersHere() != 1 {
		t.Errorf("a changed file cost %v, and %d layers are here", got, v.layersHere())
	}
	if sent := got["PUT blobs"]; sent > 4 { // the index, the layer, its paths, and the config anew
		t.Errorf("%d blobs were sent: %v", sent, got)
	}
	v.move(place, nil)
	v.must()
	v.noWarnings()
}

// TestCarriedUnion exports two targets to one place, and builds each from it elsewhere.
func TestCarriedUnion(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY a.txt /a\nRUN [\"write\", \"/x\", \"1\"]\n", "two": "FROM scratch\nRUN [\"write\", \"/y\", \"2\"]\n", "a.txt": "a",
	})
	v.targets = append(v.targets, &config.Target{Name: "web", Dockerfile: "two", Outputs: []config.Attrs{{"type": "cacheonly"}}})
	dir := t.TempDir()
	v.use(nil, local("dest", dir))
	v.must("write /x 1", "write /y 2")
	v.move(local("src", dir), nil)
	v.must()
	v.noWarnings()
}

// TestCarriedAttributes brings what a tar of an image does not say, and what only overlayfs knows.
func TestCarriedAttributes(t *testing.T) {
	v := newTraveller(t, nil)
	at := time.Unix(1700000000, 123456789)
	draft, err := v.store.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(draft.FS+"/d", 0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(draft.FS+"/d/f", []byte("x"), 0o4755); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{"": 0o711, "/d/f": 0o755 | os.ModeSetuid} {
		if err := os.Chmod(draft.FS+path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/d/f", "/d", ""} {
		if err := os.Chtimes(draft.FS+path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	id := cache.KeyOf([]cache.Input{{Name: "a", Digest: "layer"}})
	if err := draft.Commit(id, cache.LayerMeta{Size: 1, Files: 2}); err != nil {
		t.Fatal(err)
	}
	from := v.build()
	o := &carryOut{b: from}
	l, err := o.layerOut(t.Context(), wantedLayer{layer: layer{id: id, ran: true}, whole: true})
	if err != nil {
		t.Fatal(err)
	}
	source := &storeSource{o}
	v.newCache()
	to := v.build()
	if err := to.unpackCarried(t.Context(), carriedLayer{l, source}); err != nil {
		t.Fatal(err)
	}
	dir, ok := v.store.LayerDir(id)
	if !ok {
		t.Fatal("the layer is not there")
	}
	for path, mode := range map[string]os.FileMode{"": os.ModeDir | 0o711, "/d": os.ModeDir | 0o751, "/d/f": 0o755 | os.ModeSetuid} {
		info, err := os.Stat(dir + path)
		if err != nil || info.Mode() != mode || !info.ModTime().Equal(at) {
			t.Errorf("%q: %v, %v", path, info, err)
		}
	}
	// Paths of another layer are noticed.
	other := l
	other.ID, other.DiffID = cache.KeyOf(nil), id
	if err := to.unpackCarried(t.Context(), carriedLayer{other, source}); err == nil {
		t.Error("a layer with another diff id is taken")
	}
}

// build is a run of no steps.
func (v *traveller) build() *build {
	v.t.Helper()
	b, err := v.engine.newBuild(&planner.Graph{}, executor.Options{})
	if err != nil {
		v.t.Fatal(err)
	}
	b.carried = v.engine.newCarried(v.t.Context(), b.graph, executor.Options{})
	return b
}

// storeSource is a cache of another machine that was never exported.
type storeSource struct{ out *carryOut }

// Index, Open, String and Close make a carry.Source of it.
func (s *storeSource) Index(context.Context) (*carry.Index, error) { return nil, nil }
func (s *storeSource) Open(ctx context.Context, b carry.Blob) (io.ReadCloser, error) {
	return s.out.openBlob(ctx, b)
}
func (s *storeSource) String() string { return "another machine" }
func (s *storeSource) Close() error   { return nil }
