package embedded

import (
	"strings"
	"testing"

	"github.com/bakebuild/bake/executor/cache"
)

// TestExportBeyondBounds: entries that no import accepts are left out of an export, with one warning, and the rest of
// the cache serves others.
func TestExportBeyondBounds(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	b := v.begin()
	for i := range b.nodes {
		if _, err := v.finish(b, i); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.nodes[i].step.Name, "count") {
			continue
		}
		large := *b.nodes[i].entry
		large.Lookups = []cache.Lookup{{Path: strings.Repeat("x", 1<<17)}}
		if err := v.store.Put(&large); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	v.use(nil, local("dest", dir, "mode", "max"))
	v.must()
	if len(v.warned) != 1 {
		t.Errorf("%d warnings: %q", len(v.warned), v.warned)
	}
	v.wantWarning(" lacks 2 of ")
	v.move(local("src", dir), nil)
	v.mustRun("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	v.noWarnings()
}

// TestExportAfterImport: a cache lies about a step, and a build that names it exports another cache. There the lie is a
// claim of the new cache, and what is stored here still serves nobody who does not name the first.
func TestExportAfterImport(t *testing.T) {
	v := newTraveller(t, stagedFiles)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	f := v.forge()
	f.layer(nameOf("7"), "out.txt", "evil")
	serveLayer(f.entry(`"/out.txt"]`), nameOf("7"))
	first, second := f.write(), t.TempDir()
	v.move(local("src", first), local("dest", second, "mode", "max"))
	v.must()
	v.use(nil, nil)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	if got := v.built("/out.txt"); got != "src" {
		t.Errorf("where the caches were imported and exported: %q", got)
	}
	v.move(local("src", second), nil)
	for _, s := range v.must().Steps {
		if s.Claim != "" && s.Claim != second {
			t.Errorf("%s is a claim of %q", s.Digest, s.Claim)
		}
	}
	served := 0
	for _, s := range v.must().Steps {
		if s.Claim == second {
			served++
		}
	}
	if served < 3 {
		t.Errorf("%d steps are claims of the second cache", served)
	}
	v.use(nil, nil)
	v.must("count /base.txt", "count /tool", "copy /src.txt /out.txt")
	if got := v.built("/out.txt"); got != "src" {
		t.Errorf("without the second cache: %q", got)
	}
	v.noWarnings()
}
