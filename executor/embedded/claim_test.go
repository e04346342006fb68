package embedded

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// TestClaimedLayerIsNoBase: a layer of a cache that says that it is the layer of a base, and that its paths and blobs
// are those of the base, is never the base's: not in this build and not in later ones.
func TestClaimedLayerIsNoBase(t *testing.T) {
	files := map[string]string{"step": "x", "a.txt": "a"}
	v := newTraveller(t, files)
	h := v.serve(nil, []tar.Header{reg("app/true", "genuine")})
	v.write(map[string]string{"Dockerfile": "FROM " + h.ref + "\nRUN [\"copy\", \"/app/true\", \"/out\"]\n"})
	v.must("copy /app/true /out")
	b := v.begin()
	if _, err := b.Lookup(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	base, err := b.nodes[0].op.(*baseImage).layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := v.forge()
	names := []digest.Digest{base[1].chainID, base[1].DiffID, base[0].chainID}
	for _, id := range names {
		f.layer(id, "app/true", "evil")
	}
	e := f.entry(`"/out"]`)
	serveLayer(e, names[0])
	for _, id := range names[1:] { // more steps of the cache bring the other layers
		also := *e
		also.Outputs = []cache.Output{{Parts: []cache.Part{e.Outputs[0].Parts[0], {Layer: id}}}}
		also.ID, also.Key, also.Inputs, also.Aliases = id, id, nil, nil
		f.index.Entries = append(f.index.Entries, also)
	}
	dir := f.write()
	v.move(local("src", dir), nil)
	v.must()
	if got := v.built("/app/true"); got != "evil" { // the claim about the step is believed by this build
		t.Errorf("the build that names the cache has %q", got)
	}
	v.write(map[string]string{"Dockerfile": "FROM " + h.ref + "\nRUN [\"copy\", \"/app/true\", \"/other\"]\n"})
	for _, from := range []config.Attrs{local("src", dir), nil} {
		v.use(from, nil)
		if _, _, err := v.run(); err != nil {
			t.Fatal(err)
		}
		if got := v.built("/other"); got != "genuine" {
			t.Errorf("with %v the base has %q", from, got)
		}
	}
	for _, id := range names {
		if dir, ok := v.store.LayerDir(id); ok {
			if text, err := os.ReadFile(filepath.Join(dir, "app/true")); err == nil && string(text) == "evil" {
				t.Errorf("layer %s of the base is evil", id)
			}
		}
	}
}

const aboveStage = `FROM scratch AS build
COPY src.txt /src.txt
RUN ["copy", "/src.txt", "/out.txt"]
FROM scratch
COPY --from=build /out.txt /out.txt
RUN ["copy", "/out.txt", "/end.txt"]
`

// TestClaimedSelection: a cache lies about the digest of a stage's files. Builds without the cache that copy files with
// that digest get those files.
func TestClaimedSelection(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": aboveStage, "src.txt": "good"})
	v.must("copy /src.txt /out.txt", "copy /out.txt /end.txt")
	good := v.forge().entry("/out.txt\"]").Selections
	if len(good) == 0 {
		t.Fatal("the cache has no selections")
	}
	v.newCache()
	v.write(map[string]string{"src.txt": "evil"})
	v.must("copy /src.txt /out.txt", "copy /out.txt /end.txt")
	f := v.forge()
	f.entry("/src.txt\", \"/out.txt\"]").Selections = good
	// Only the stage is in the cache: the copy runs here.
	stage := *f.entry("/src.txt\", \"/out.txt\"]")
	context := *f.entry("COPY src.txt /src.txt")
	f.index.Entries = []remotecache.Entry{stage, context}
	dir := f.write()
	v.move(local("src", dir), nil)
	v.must("copy /out.txt /end.txt")
	if got := v.built("/end.txt"); got != "evil" {
		t.Errorf("with the cache, end.txt is %q", got)
	}
	v.use(nil, nil)
	v.write(map[string]string{"src.txt": "good"})
	v.must("copy /src.txt /out.txt", "copy /out.txt /end.txt")
	for _, path := range []string{"/out.txt", "/end.txt"} {
		if got := v.built(path); got != "good" {
			t.Errorf("without the cache, %s is %q", path, got)
		}
	}
}

// TestClaimedCandidate: a candidate of a cache serves its claims only.
func TestClaimedCandidate(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN [\"write\", \"/first\", \"1\"]\nCOPY src.txt /src.txt\n", "src.txt": "good",
	})
	v.must("write /first 1")
	f := v.forge()
	f.layer(nameOf("1"), "src.txt", "evil")
	serveLayer(f.entry("COPY src.txt /src.txt"), nameOf("1"))
	dir := f.write()
	v.move(local("src", dir), nil)
	v.write(map[string]string{
		"Dockerfile": "FROM scratch\nRUN [\"write\", \"/first\", \"2\"]\nCOPY src.txt /src.txt\n",
	})
	v.must("write /first 2")
	if got := v.built("/src.txt"); got != "evil" {
		t.Errorf("the candidate is not used: %q", got)
	}
	v.use(nil, nil)
	v.must()
	if got := v.built("/src.txt"); got != "good" {
		t.Errorf("without the cache, src.txt is %q", got)
	}
}

// TestClaimAlternates builds with a cache, without it, and so on: nothing runs twice, each build gets its own results,
// and the directory of the claims names no other.
func TestClaimAlternates(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	f := v.forge()
	f.layer(nameOf("2"), "out.txt", "claimed")
	serveLayer(f.entry(`"/out.txt"]`), nameOf("2"))
	f.index.Entries = slices.DeleteFunc(f.index.Entries, func(e remotecache.Entry) bool {
		return strings.HasPrefix(e.Name, "COPY --from") || strings.Contains(e.Name, "COPY --from")
	})
	dir := f.write()
	v.move(local("src", dir), nil)
	v.must()
	if got := v.built("/out.txt"); got != "claimed" {
		t.Errorf("with the cache: %q", got)
	}
	v.use(nil, nil)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	if got := v.built("/out.txt"); got != "src" {
		t.Errorf("without the cache: %q", got)
	}
	for range 2 {
		v.use(local("src", dir), nil)
		v.must()
		v.use(nil, nil)
		v.must()
	}
	if got := v.built("/out.txt"); got != "src" {
		t.Errorf("without the cache: %q", got)
	}
	if got := v.store.ClaimOrigins(); len(got) != 1 || !strings.HasSuffix(got[0], filepath.Base(dir)) {
		t.Errorf("the claims are of %q", got)
	}
	v.noWarnings()
}

// TestStepOnClaim: what runs on a claimed layer serves builds that name the cache, and is warm for them.
func TestStepOnClaim(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN [\"write\", \"/in\", \"good\"]\nRUN [\"copy\", \"/in\", \"/out\"]\n",
	})
	v.must("write /in good", "copy /in /out")
	f := v.forge()
	f.layer(nameOf("3"), "in", "evil")
	serveLayer(f.entry(`"good"]`), nameOf("3"))
	f.index.Entries = []remotecache.Entry{*f.entry(`"good"]`)}
	dir := f.write()
	v.move(local("src", dir), nil)
	v.must("copy /in /out")
	if got := v.must().Steps[0]; got.Claim != dir {
		t.Errorf("the step is served from %q, not %q", got.Claim, dir)
	}
	if got := v.built("/out"); got != "evil" {
		t.Errorf("with the cache: %q", got)
	}
	v.use(nil, nil)
	steps, err := v.engine.Preview(t.Context(), v.graph(), v.opts)
	if err != nil || !strings.HasSuffix(steps[0].Reason, "/"+filepath.Base(dir)+", which this build does not name") {
		t.Errorf("the reason is %q, %v", steps[0].Reason, err)
	}
	report := v.must("write /in good", "copy /in /out")
	if !strings.HasPrefix(report.Steps[0].Reason, "known from ") || report.Steps[0].Claim != "" {
		t.Errorf("the step: %+v", report.Steps[0])
	}
	if got := v.built("/out"); got != "good" {
		t.Errorf("without the cache: %q", got)
	}
}

// TestClaimOfTwoCaches: a claim of one cache on top of a claim of another serves only builds that name both.
func TestClaimOfTwoCaches(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN [\"write\", \"/in\", \"good\"]\nRUN [\"write\", \"/b\", \"b\"]\n" +
			"RUN [\"copy\", \"/in\", \"/out\"]\n",
	})
	v.must("write /in good", "write /b b", "copy /in /out")
	one := v.forge()
	honest := one.index
	honest.Entries = []remotecache.Entry{*one.entry(`"good"]`), *one.entry(`"b"]`)}
	honest.Layers = slices.Clone(honest.Layers)
	one.layer(nameOf("4"), "in", "evil")
	evil := *one.entry(`"good"]`)
	evil.Outputs = []cache.Output{{Parts: []cache.Part{{Layer: nameOf("4")}}}}
	one.index.Entries = []remotecache.Entry{evil}
	first := one.write()
	one.index = honest
	second := one.write()
	v.move(nil, nil)
	v.use2(first, second)
	v.must("copy /in /out")
	if got := v.built("/out"); got != "evil" {
		t.Errorf("with both caches: %q", got)
	}
	v.use(local("src", second), nil)
	v.must("copy /in /out")
	if got := v.built("/out"); got != "good" {
		t.Errorf("with the second cache alone: %q", got)
	}
	v.use2(first, second)
	v.must()
	v.use2(second, first)
	v.must()
	if got := v.built("/out"); got != "good" {
		t.Errorf("in the other order: %q", got)
	}
}

// use2 makes the next builds read two caches.
func (v *traveller) use2(first, second string) {
	v.use(local("src", first), nil)
	for name := range v.caches.From {
		v.caches.From[name] = []config.Attrs{local("src", first), local("src", second)}
	}
	v.engine = v.engine.WithCaches(v.caches)
}
