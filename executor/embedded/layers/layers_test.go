package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// everyKind returns a tar with every kind of file, and the name of 255 bytes in it.
func everyKind(t *testing.T) (tarBytes []byte, long string) {
	xattrs := reg("bin/ping", "elf")
	xattrs.PAXRecords = map[string]string{
		"SCHILY.xattr.user.note": "x", "SCHILY.xattr.user.overlay.opaque": "y",
		"SCHILY.xattr.trusted.overlay.redirect": "/etc",
	}
	long = strings.Repeat("n", 255)
	return mkTar(t,
		dir("./bin/"), xattrs, hard("bin/ping6", "bin/ping"), sym("sh", "bin/ping"),
		file{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
		file{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, ""},
		file{tar.Header{Name: "etc/" + long, Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 12, Gid: 3_000_000}, "long"},
		reg("etc/\xff\xfe", "raw"), reg("etc/.wh.gone", ""), reg("opt/x/.wh..wh..opq", ""), reg("opt/x/new", "1"),
		reg("empty", ""), reg("big", strings.Repeat("0123456789abcdef", 100_000)),
	), long
}

// TestUnpackPack: what Unpack writes has the attributes of the tar, without those of overlayfs, and packs again to the
// same entries.
func TestUnpackPack(t *testing.T) {
	requireRoot(t)
	in, long := everyKind(t)
	d, res, err := unpack(t, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(in)); res.DiffID.String() != want {
		t.Errorf("diff id %s, want %s", res.DiffID, want)
	}
	got := list(t, pack(t, d, PackOptions{}))
	for i := range got {
		if len(got[i]) > 400 {
			got[i] = got[i][:20]
		}
	}
	want := []string{
		"0 big = 0123456789ab", "5 bin/", "0 bin/ping = elf", "1 bin/ping6 -> bin/ping", "5 dev/", "3 dev/null",
		"0 empty", "5 etc/", "0 etc/.wh.gone", "0 etc/" + long + " = long", "0 etc/\xff\xfe = raw", "6 fifo",
		"5 opt/", "5 opt/x/", "0 opt/x/.wh..wh..opq", "0 opt/x/new = 1", "2 sh -> bin/ping",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packed again (-want +got):\n%s", diff)
	}
	if got := xattr(t, filepath.Join(d, "bin/ping"), "user.note"); got != "x" {
		t.Errorf("user.note = %q", got)
	}
	for _, name := range []string{"user.overlay.opaque", "trusted.overlay.redirect"} {
		if got := xattr(t, filepath.Join(d, "bin/ping"), name); got != "" {
			t.Errorf("%s = %q, want none", name, got)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(d, "etc", long), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o4755 || st.Uid != 12 || st.Gid != 3_000_000 || st.Mtim.Sec != 1_600_000_000 {
		t.Errorf("mode %o owner %d:%d mtime %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
	}
}

// TestRoundTrip: a packed layer unpacks and packs to the same bytes, and BuildIndex returns the records of Unpack.
func TestRoundTrip(t *testing.T) {
	requireRoot(t)
	in, _ := everyKind(t)
	d, _, err := unpack(t, in, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := pack(t, d, PackOptions{Epoch: time.Unix(1_700_000_000, 0)})
	d2, res2, err := unpack(t, first, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, pack(t, d2, PackOptions{Epoch: time.Unix(1_700_000_000, 0)})) {
		t.Error("a second round trip changed the bytes")
	}
	index, err := BuildIndex(context.Background(), bytes.NewReader(first), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(res2.Records, index.Records); diff != "" {
		t.Errorf("BuildIndex differs from Unpack:\n%s", diff)
	}
}

// TestUnpackEncodings: Unpack detects the compression, and a truncated blob is an error.
func TestUnpackEncodings(t *testing.T) {
	requireRoot(t)
	in := mkTar(t, reg("a", "1"), reg("b/c", strings.Repeat("x", 2<<20)))
	encodings := map[string]func(io.Writer) io.WriteCloser{
		"plain": func(w io.Writer) io.WriteCloser { return nopCloser{w} },
		"gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd":  func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
	}
	for name, encoder := range encodings {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			z := encoder(&b)
			z.Write(in)
			z.Close()
			_, res, err := unpack(t, b.Bytes(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("sha256:%x", sha256.Sum256(in)); res.DiffID.String() != want {
				t.Errorf("diff id %s, want %s", res.DiffID, want)
			}
			if name == "plain" {
				return
			}
			if _, _, err := unpack(t, b.Bytes()[:b.Len()/2], nil); err == nil {
				t.Error("a truncated blob was accepted")
			}
		})
	}
}

// TestCompressIsDeterministic: equal layers have equal blobs, and BuildIndex reads what Compress reports.
func TestCompressIsDeterministic(t *testing.T) {
	d := t.TempDir()
	for i := range 50 {
		body := bytes.Repeat([]byte(fmt.Sprintf("line %d\n", i)), 20_000)
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []Compression{{}, {Algorithm: Gzip, Level: 1}, {Algorithm: Zstd}, {Algorithm: Uncompressed}} {
		t.Run(f.String(), func(t *testing.T) {
			var blobs [2]bytes.Buffer
			var packed [2]Packed
			for i := range blobs {
				var err error
				opt := PackOptions{Epoch: time.Unix(1e9, 0)}
				if packed[i], err = Compress(context.Background(), d, opt, f, &blobs[i]); err != nil {
					t.Fatal(err)
				}
			}
			if packed[0] != packed[1] || !bytes.Equal(blobs[0].Bytes(), blobs[1].Bytes()) {
				t.Errorf("two runs differ: %v %v", packed[0], packed[1])
			}
			if want := fmt.Sprintf("sha256:%x", sha256.Sum256(blobs[0].Bytes())); packed[0].Digest.String() != want {
				t.Errorf("digest %s, want %s", packed[0].Digest, want)
			}
			res, err := BuildIndex(context.Background(), &blobs[0], Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if res.DiffID != packed[0].DiffID || res.Size != packed[0].Content.Size {
				t.Errorf("read back %v, packed %v", res.DiffID, packed[0])
			}
		})
	}
}
