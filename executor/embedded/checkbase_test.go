package embedded

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/bakebuild/bake/executor/cache"
)

// TestCheckUnpackedLayers: a byte that changes in the unpacked layer of a base or of a remote cache is found, and the
// next build has the right bytes after a repair. So is a layer that is not what its id says, as an earlier version
// could store one.
func TestCheckUnpackedLayers(t *testing.T) {
	v := newTraveller(t, map[string]string{"step": "x"})
	h := v.serve(nil, []tar.Header{reg("app/true", "genuine"), {Name: "app/link", Typeflag: tar.TypeLink,
		Linkname: "app/true", Mode: 0o644}})
	v.write(map[string]string{
		"Dockerfile": "FROM " + h.ref + "\nRUN [\"copy\", \"/app/true\", \"/out\"]\n" +
			"RUN [\"copy\", \"/out\", \"/end\"]\n",
	})
	v.must("copy /app/true /out", "copy /out /end")
	dir := v.forge().write()
	v.move(local("src", dir), nil)
	v.write(map[string]string{"Dockerfile": "FROM " + h.ref +
		"\nRUN [\"copy\", \"/app/true\", \"/out\"]\nRUN [\"copy\", \"/out\", \"/new\"]\n" +
		"RUN [\"copy\", \"/app/true\", \"/x\"]\n"})
	v.must("copy /out /new", "copy /app/true /x")
	check := func(repair bool) []cache.Damage {
		t.Helper()
		found, err := v.store.Check(t.Context(),
			cache.CheckOptions{Repair: repair, Layer: CheckLayer, Base: CheckBase})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := check(false); len(found) > 0 {
		t.Fatalf("damage without reason: %v", found)
	}
	flipped := v.flip("app/true", "out") // of the base, and of the cache
	if flipped != 2 {
		t.Fatalf("%d files were changed", flipped)
	}
	if found := check(true); len(found) != flipped {
		t.Errorf("found %v", found)
	}
	if found := check(false); len(found) > 0 {
		t.Errorf("after the repair: %v", found)
	}
	if _, _, err := v.run(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/x", "/new"} {
		if got := v.built(path); got != "genuine" {
			t.Errorf("%s is %q", path, got)
		}
	}
}

// flip changes a byte of each unpacked file with one of the names, and returns their number.
func (v *traveller) flip(names ...string) (flipped int) {
	v.t.Helper()
	layers, err := filepath.Glob(filepath.Join(v.store.Dir(), "layers", "*", "fs"))
	if err != nil {
		v.t.Fatal(err)
	}
	for _, l := range layers {
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(l, name))
			if err != nil {
				continue
			}
			flipped++
			text[0] ^= 1
			if err := os.WriteFile(filepath.Join(l, name), text, 0o644); err != nil {
				v.t.Fatal(err)
			}
		}
	}
	return flipped
}
