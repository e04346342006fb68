package embedded

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
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

func newTraveller(t testing.TB, files map[string]string) *traveller {
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

func TestRemoteCacheInDirectory(t *testing.T) {
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

// TestRemoteCacheOn exports a cache that was imported and not opened, and changes one layer.
func TestRemoteCacheOn(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	dir, other := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	v.use(nil, local("dest", dir, "mode", "max"))
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	before := dirState(t, dir)

	v.move(local("src", dir), local("dest", dir, "mode", "max"))
	v.must()
	if after := dirState(t, dir); !maps.Equal(before, after) {
		t.Errorf("an export of unchanged imported layers wrote files: %v, then %v", before, after)
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

// TestRemoteCacheMin leaves the layers of the other stage behind: as long as its files are not needed it does not run.
func TestRemoteCacheMin(t *testing.T) {
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
	v.write(map[string]string{"Dockerfile": strings.Replace(staged, `RUN ["copy", "/src.txt"`, `RUN ["copy", "/tool"`,
		1), "src.txt": "src"})
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

// TestRemoteCacheDamage flips bytes of every pack: the build is as without the cache, and its export mends it.
func TestRemoteCacheDamage(t *testing.T) {
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
	v.wantWarning("its step runs again")
	// Each build finds what of the damage it opens, which depends on ids that are drawn; at last all of it is mended.
	for range packs {
		v.move(local("src", dir), local("dest", dir, "mode", "max"))
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		if len(v.warned) == 0 {
			break
		}
		v.wantWarning("its step runs again")
	}
	v.move(local("src", dir), nil)
	v.must()
	v.noWarnings()
}

// TestRemoteCacheMissing exports a cache of which packs are gone that the build does not read: what cannot be had is
// left out, and the rest is written.
func TestRemoteCacheMissing(t *testing.T) {
	files := maps.Clone(stagedFiles)
	files["Dockerfile"] = strings.Replace(staged, `RUN ["count", "/tool"]`,
		`RUN --mount=type=cache,target=/m ["count", "/tool"]`, 1)
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
