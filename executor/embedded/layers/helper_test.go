package layers

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requireRoot skips a test that creates devices and sets trusted xattrs.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	skip(t, "needs root to create whiteout devices and trusted xattrs")
}

// skip skips a test whose requirements are missing. In CI that is a failure.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

type file struct {
	tar.Header
	body string
}

func reg(name, body string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}
func dir(name string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func sym(name, target string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, ""}
}
func hard(name, target string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}, ""}
}

func mkTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Size = int64(len(f.body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_600_000_000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t testing.TB, tarBytes []byte, below Below) (string, UnpackResult, error) {
	t.Helper()
	d := t.TempDir()
	res, err := Unpack(context.Background(), bytes.NewReader(tarBytes), UnpackOptions{Dir: d, Below: below})
	return d, res, err
}

func pack(t testing.TB, d string, opt PackOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Pack(context.Background(), d, &b, opt); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// list returns one line for each entry of a tar: its type, name, link target and content.
func list(t testing.TB, b []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err != nil {
			return out
		}
		s := string(h.Typeflag) + " " + h.Name
		if h.Linkname != "" {
			s += " -> " + h.Linkname
		}
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			body := make([]byte, h.Size)
			r.Read(body)
			s += " = " + string(body)
		}
		out = append(out, s)
	}
}

func xattr(t testing.TB, path, name string) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}
