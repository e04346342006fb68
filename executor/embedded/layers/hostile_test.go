package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hostileTar is a tar that an attacker could have written.
type hostileTar struct {
	files []file
	err   string   // part of the error; "" means that it can be unpacked
	want  []string // the tar that Pack makes of it; nil is not compared
}

// hostileNames has names that leave the layer, repeat, or are too long.
func hostileNames() map[string]hostileTar {
	return map[string]hostileTar{
		"dotdot": {
			files: []file{reg("../../outside/secret", "x")},
			want:  []string{"5 outside/", "0 outside/secret = x"},
		},
		"absolute":       {files: []file{reg("/etc/passwd", "x")}, want: []string{"5 etc/", "0 etc/passwd = x"}},
		"inner dotdot":   {files: []file{reg("a/../../b", "x")}, want: []string{"0 b = x"}},
		"dotdot alone":   {files: []file{dir("..")}, want: nil},
		"file as parent": {files: []file{reg("a", "1"), reg("a/b", "2")}, err: "not a directory"},
		"dup file":       {files: []file{reg("a", "1"), reg("a", "2")}, want: []string{"0 a = 2"}},
		"dup dir":        {files: []file{dir("a"), reg("a/b", "1"), dir("a")}, want: []string{"5 a/", "0 a/b = 1"}},
		"dir to file":    {files: []file{dir("a"), reg("a/b", "1"), reg("a", "2")}, want: []string{"0 a = 2"}},
		"file to dir": {
			files: []file{reg("a", "1"), dir("a"), reg("a/b", "2")},
			want:  []string{"5 a/", "0 a/b = 2"},
		},
		"long name":      {files: []file{reg(strings.Repeat("x", 256), "")}, err: "255 bytes"},
		"long path":      {files: []file{reg(strings.Repeat("x/", 3000)+"x", "")}, err: "4095 bytes"},
		"negative owner": {files: []file{{tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: -1}, ""}}, err: ""},
		"root file":      {files: []file{reg(".", "x")}, err: "the root is not a directory"},
		"huge time": {
			files: []file{{tar.Header{
				Name: "a", Typeflag: tar.TypeReg, Mode: 0o644,
				ModTime: time.Unix(1<<60, 0), Format: tar.FormatPAX,
			}, ""}},
			want: []string{"0 a"},
		},
	}
}

// hostileLinks has symbolic and hard links that lead out of the layer or to each other.
func hostileLinks() map[string]hostileTar {
	return map[string]hostileTar{
		"symlink out": {
			files: []file{sym("l", "../outside"), reg("l/secret", "x")},
			want:  []string{"2 l -> ../outside", "5 outside/", "0 outside/secret = x"},
		},
		"absolute symlink": {
			files: []file{sym("l", "/outside"), reg("l/secret", "x")},
			want:  []string{"2 l -> /outside", "5 outside/", "0 outside/secret = x"},
		},
		"symlink chain": {
			files: []file{sym("a", "b"), sym("b", "../../c"), reg("a/f", "x")},
			want:  []string{"2 a -> b", "2 b -> ../../c", "5 c/", "0 c/f = x"},
		},
		"symlink loop": {files: []file{sym("a", "b"), sym("b", "a"), reg("a/f", "x")}, err: "too many levels"},
		"link replaced": {
			files: []file{dir("d"), reg("d/f", "1"), sym("d", "../outside"), reg("d/secret", "x")},
			want:  []string{"2 d -> ../outside", "5 outside/", "0 outside/secret = x"},
		},
		"hard link out":     {files: []file{hard("h", "../outside/secret")}, err: "hard link to"},
		"hard link abs":     {files: []file{hard("h", "/outside/secret")}, err: "hard link to"},
		"hard link by link": {files: []file{sym("l", "../outside"), hard("h", "l/secret")}, err: "hard link to"},
		"hard link to link": {
			files: []file{sym("l", "../outside/secret"), hard("h", "l")},
			want:  []string{"2 h -> ../outside/secret", "1 l -> h"},
		},
		"hard link to dir":  {files: []file{dir("d"), hard("h", "d")}, err: "hard link to"},
		"hard link to self": {files: []file{reg("a", "1"), hard("a", "a")}, want: []string{"0 a = 1"}},
		"hard link parent":  {files: []file{reg("d/a", "1"), hard("d", "d/a")}, err: "contains its target"},
		"hard link gone": {
			files: []file{reg("a", "1"), hard("b", "a"), sym("a", "x")},
			want:  []string{"2 a -> x", "0 b = 1"},
		},
		"write through": {
			files: []file{reg("a", "1"), hard("b", "a"), reg("b", "2")},
			want:  []string{"0 a = 1", "0 b = 2"},
		},
	}
}

// hostileWhiteouts has whiteouts and opaque markers in every order, and invalid ones.
func hostileWhiteouts() map[string]hostileTar {
	return map[string]hostileTar{
		"whiteout":          {files: []file{reg(".wh.a", "")}, want: []string{"0 .wh.a"}},
		"whiteout body":     {files: []file{reg(".wh.a", "body")}, want: []string{"0 .wh.a"}},
		"whiteout dot":      {files: []file{reg(".wh..", "")}, err: "invalid whiteout"},
		"whiteout dotdot":   {files: []file{reg("a/.wh...", "")}, err: "invalid whiteout"},
		"whiteout nothing":  {files: []file{reg("a/.wh.", "")}, err: "invalid whiteout"},
		"whiteout as dir":   {files: []file{dir(".wh.a"), reg(".wh.a/b", "")}, err: ""},
		"whiteout own file": {files: []file{reg("a", "1"), reg(".wh.a", "")}, want: []string{"0 a = 1"}},
		"whiteout own dir": {
			files: []file{reg("a/b", "1"), reg(".wh.a", "")},
			want:  []string{"5 a/", "0 a/.wh..wh..opq", "0 a/b = 1"},
		},
		"whiteout then dir": {
			files: []file{reg(".wh.a", ""), reg("a/b", "1")},
			want:  []string{"5 a/", "0 a/.wh..wh..opq", "0 a/b = 1"},
		},
		"whiteout twice": {files: []file{reg(".wh.a", ""), reg(".wh.a", "")}, want: []string{"0 .wh.a"}},
		"whiteout by link": {
			files: []file{sym("l", "../outside"), reg("l/.wh.secret", "")},
			want:  []string{"2 l -> ../outside", "5 outside/", "0 outside/.wh.secret"},
		},
		"whiteout device": {
			files: []file{{tar.Header{Name: "a", Typeflag: tar.TypeChar}, ""}},
			want:  []string{"0 .wh.a"},
		},
		"aufs": {files: []file{reg(".wh..wh.plnk/1.2", ""), reg(".wh..wh.aufs", "")}, err: ""},
		"opaque late": {
			files: []file{reg("a/b", "1"), reg("a/.wh..wh..opq", "")},
			want:  []string{"5 a/", "0 a/.wh..wh..opq", "0 a/b = 1"},
		},
	}
}

// TestUnpackHostile unpacks each tar next to the file outside/secret, which must not change. What unpacks must pack to
// the expected tar, and BuildIndex must return the same records as Unpack.
func TestUnpackHostile(t *testing.T) {
	requireRoot(t)
	for _, tests := range []map[string]hostileTar{hostileNames(), hostileLinks(), hostileWhiteouts()} {
		for name, tt := range tests {
			t.Run(name, tt.test)
		}
	}
}

func (tt hostileTar) test(t *testing.T) {
	base := t.TempDir()
	secret := filepath.Join(base, "outside", "secret")
	d := filepath.Join(base, "layer")
	for _, p := range []string{filepath.Dir(secret), d} {
		if err := os.Mkdir(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	in := tarLoose(t, tt.files...)
	res, err := Unpack(context.Background(), bytes.NewReader(in), UnpackOptions{Dir: d})
	if b, rerr := os.ReadFile(secret); rerr != nil || string(b) != "secret" {
		t.Fatalf("the file outside changed: %q, %v", b, rerr)
	}
	index, ierr := BuildIndex(context.Background(), bytes.NewReader(in), Limits{})
	if tt.err != "" {
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Fatalf("err = %v, want %q", err, tt.err)
		}
		return
	}
	if err != nil || ierr != nil {
		if tt.want == nil {
			return
		}
		t.Fatal(err, ierr)
	}
	if diff := cmp.Diff(res.Records, index.Records); diff != "" {
		t.Errorf("index differs:\n%s", diff)
	}
	if tt.want == nil {
		return
	}
	if diff := cmp.Diff(tt.want, list(t, pack(t, d, PackOptions{}))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// tarLoose is like mkTar, for headers that the tar writer rejects in part.
func tarLoose(t testing.TB, files ...file) []byte {
	for i := range files {
		if files[i].Uid < 0 {
			files[i].Uid = 0
			files[i].PAXRecords = map[string]string{"VENDOR.x": "1"}
		}
	}
	return mkTar(t, files...)
}

// TestUnpackLimits: a layer that exceeds one of the limits is rejected.
func TestUnpackLimits(t *testing.T) {
	many := make([]file, 20)
	for i := range many {
		many[i] = reg(fmt.Sprint("f", i), "0123456789")
	}
	in := mkTar(t, many...)
	for name, l := range map[string]Limits{
		"entries": {Entries: 10}, "names": {Names: 30}, "content": {Content: 100}, "trailing": {Trailing: 1},
	} {
		t.Run(name, func(t *testing.T) {
			data := in
			if name == "trailing" {
				data = append(bytes.Clone(in), make([]byte, 100)...)
			}
			_, err := BuildIndex(context.Background(), bytes.NewReader(data), l)
			if err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestUnpackCorrupt: a blob that is truncated or not a tar is an error.
func TestUnpackCorrupt(t *testing.T) {
	whole := mkTar(t, reg("a", strings.Repeat("x", 5000)))
	for name, data := range map[string][]byte{
		"truncated":  whole[:2000],
		"garbage":    []byte(strings.Repeat("not a tar ", 200)),
		"empty gzip": {0x1f, 0x8b},
		"bad zstd":   {0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := unpack(t, data, nil); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestUnpackHugeHeader: an extended header of 2 MiB is rejected before it is read. The tar writer cannot write one, so
// the test edits the size field.
func TestUnpackHugeHeader(t *testing.T) {
	in := mkTar(t, file{tar.Header{Name: "a", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"X.y": "z"}}, ""})
	copy(in[124:], "00010000000 ") // size of the first block's content: 2 MiB
	sum := 0
	copy(in[148:], "        ")
	for _, c := range in[:512] {
		sum += int(c)
	}
	copy(in[148:], fmt.Sprintf("%06o\x00 ", sum))
	in = append(in[:512:512], append(bytes.Repeat([]byte("z"), 2<<20), in[1024:]...)...)
	if _, _, err := unpack(t, in, nil); !errors.Is(err, tar.ErrFieldTooLong) {
		t.Errorf("err = %v", err)
	}
}

// TestUnpackCancelled: Unpack returns the error of its context.
func TestUnpackCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	in := mkTar(t, reg("a", strings.Repeat("x", 1<<20)))
	r := io.MultiReader(bytes.NewReader(in[:1<<19]), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, ctx.Err()
	}))
	_, err := Unpack(ctx, r, UnpackOptions{Dir: t.TempDir()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestPackRefuses: Pack rejects files and overlayfs attributes that a layer tar cannot represent.
func TestPackRefuses(t *testing.T) {
	requireRoot(t)
	tests := map[string]func(d string) error{
		"wh file":  func(d string) error { return os.WriteFile(filepath.Join(d, ".wh.x"), nil, 0o644) },
		"redirect": func(d string) error { return setXattr(filepath.Join(d), "trusted.overlay.redirect", "/etc") },
		"metacopy": func(d string) error { return setXattr(filepath.Join(d), "trusted.overlay.metacopy", "") },
	}
	for name, create := range tests {
		t.Run(name, func(t *testing.T) {
			d := t.TempDir()
			sub := filepath.Join(d, "sub")
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := create(sub); err != nil {
				t.Fatal(err)
			}
			if _, err := Pack(context.Background(), d, io.Discard, PackOptions{}); !errors.Is(err, ErrUnrepresentable) {
				t.Errorf("err = %v", err)
			}
		})
	}
}
