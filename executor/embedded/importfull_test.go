package embedded

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
)

// largeAttribute is a tar of a file with an attribute that fits Linux, and not all file systems.
func largeAttribute(t testing.TB) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	err := w.WriteHeader(&tar.Header{
		Name: "d/file", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"SCHILY.xattr.user.big": strings.Repeat("x", 60_000)},
	})
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

// holdsLargeAttributes reports whether the file system of the tests can hold the attribute of largeAttribute.
func holdsLargeAttributes(t testing.TB) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return unix.Setxattr(path, "user.big", bytes.Repeat([]byte("x"), 60_000), 0) == nil
}

// setBlob gives a layer another tar, without compression.
func (f *forger) setBlob(l *remotecache.Layer, tarball []byte) {
	f.t.Helper()
	blob, err := f.b.keepSmall(tarball, layers.Compression{Algorithm: layers.Uncompressed}.MediaType())
	if err != nil {
		f.t.Fatal(err)
	}
	l.Blob, l.DiffID, l.Encoding, l.Packed = blob, digest.FromBytes(tarball), "uncompressed, times kept", nil
}

// TestAttributeTooLarge: a file with an attribute that the file system of the cache cannot hold. In a remote cache its
// layer is lost, in an archive of the user the error names file and attribute; neither is a full disk.
func TestAttributeTooLarge(t *testing.T) {
	fits := holdsLargeAttributes(t)
	const dockerfile = "FROM scratch\nCOPY a.txt /\nRUN [\"count\", \"/x\"]\n"
	v := newTraveller(t, map[string]string{"Dockerfile": dockerfile, "a.txt": "a"})
	v.must("count /x")
	f := v.forge()
	for i := range f.index.Layers {
		f.setBlob(&f.index.Layers[i], largeAttribute(t))
	}
	v.move(local("src", f.write()), nil)
	v.write(map[string]string{"Dockerfile": dockerfile + "RUN [\"count\", \"/y\"]\n"})
	if _, _, err := v.run(); err != nil {
		t.Errorf("a layer of a remote cache fails the build: %v", err)
	}
	if !fits {
		v.wantWarning("cannot hold its attribute user.big of 60000 bytes")
	}

	v = newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nADD a.tar /\n", "a.tar": string(largeAttribute(t)),
	})
	_, _, err := v.run()
	switch {
	case fits && err != nil:
		t.Error(err)
	case !fits && (err == nil || machineFault(err) || !strings.Contains(err.Error(), "d/file: the file system of the "+
		"cache cannot hold its attribute user.big of 60000 bytes")):
		t.Errorf("the error is %v", err)
	}
}

// TestFullDiskOfLayer: a layer that fills the disk is lost, because the disk has the space again; other errors of the
// machine fail the build.
func TestFullDiskOfLayer(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
	b := v.begin()
	l := importedLayer{id: digest.FromString("layer"), from: &source{Source: &fuzzedSource{}}}
	var lost *lostError
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		if err := b.lost(t.Context(), l, &cache.Error{Op: "write", Err: full}); !errors.As(err, &lost) {
			t.Errorf("%v is %v", full, err)
		}
	}
	if err := b.lost(t.Context(), l, &cache.Error{Op: "write", Err: unix.EROFS}); errors.As(err, &lost) {
		t.Errorf("a read-only disk is %v", err)
	}
}
