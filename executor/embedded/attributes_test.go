package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/tree"
)

// access is an ACL of rw for the owner, r for the user 7, the group and others.
const access = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x07\x00\x00\x00" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// setAttributes gives a file the attributes that a layer's tar does not keep.
func setAttributes(t *testing.T, path string) {
	t.Helper()
	for name, value := range map[string]string{"user.x": "y", "system.posix_acl_access": access} {
		err := unix.Setxattr(path, name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) && os.Getenv("CI") == "" {
			t.Skip("the file system keeps no attributes")
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// TestExportedAttributes: attributes that a layer's tar does not keep are not in its list of paths either, so the layer
// of a step and a cache mount that have some can be imported.
func TestExportedAttributes(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nRUN --mount=type=cache,id=one,target=/m [\"write\", \"/x\", \"1\"]\n",
	})
	m, err := v.store.CacheMount(t.Context(), "/one", "shared", nil)
	if err != nil {
		t.Fatal(err)
	}
	draft, err := v.store.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{m.Dir, draft.FS} {
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		setAttributes(t, filepath.Join(dir, "f"))
	}
	if err := unix.Setxattr(draft.FS, "user.root", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	id := key.Of([]key.Part{{Name: "a", Digest: "layer"}})
	if err := errors.Join(m.Filled(), draft.Commit(id, cache.LayerMeta{Size: 4, Files: 1})); err != nil {
		t.Fatal(err)
	}
	m.Release()
	v.must("write /x 1")
	f := v.forge()
	l, err := f.exportLayer(t.Context(), exportedLayer{layer: layer{id: id, ran: true}, whole: true})
	if err != nil {
		t.Fatal(err)
	}
	f.index.Layers = append(f.index.Layers, l)
	dir := f.write()
	v.move(local("src", dir), nil)
	b := v.begin()
	b.imports.load()
	from := b.imports.sources[0]
	if err := b.unpackImported(t.Context(), importedLayer{l, id, from}); err != nil {
		t.Errorf("the layer: %v", err)
	}
	to, err := v.store.CacheMount(t.Context(), "/one", "shared", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Release()
	if filled, err := b.fillMount(t.Context(), "/one", from, to); err != nil || !filled {
		t.Errorf("the cache mount is filled: %t, %v", filled, err)
	}
	v.noWarnings()
}

// TestListedAttributes: a list of paths has no attribute of a copy that the tar lacks, and the other way round.
func TestListedAttributes(t *testing.T) {
	for _, name := range []string{
		"security.capability", "user.x", "system.posix_acl_access", "system.posix_acl_default",
	} {
		has, lacks := map[string][]byte{name: []byte("y")}, map[string][]byte{}
		for _, inTar := range []map[string][]byte{has, lacks} {
			for _, inList := range []map[string][]byte{has, lacks} {
				r := layers.Record{Path: "/f", Mode: unix.S_IFREG | 0o644, Xattrs: inTar}
				n := tree.Node{Entry: tree.Entry{Path: "/f", Mode: unix.S_IFREG | 0o644}, Xattrs: inList}
				if got, want := agrees(r, n), len(inTar) == len(inList); got != want {
					t.Errorf("%s in %v and %v: agrees %t", name, inTar, inList, got)
				}
			}
		}
	}
}
