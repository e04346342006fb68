package fileop_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// archive returns a tar with the entries "name=content", "name/", "name -> target" and "name => hard link target".
func archive(t *testing.T, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		h := &tar.Header{Name: line, Mode: 0o644, Uid: 5, Gid: 6}
		var content string
		if name, target, ok := strings.Cut(line, " -> "); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		} else if name, target, ok := strings.Cut(line, " => "); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if name, value, ok := strings.Cut(line, "="); ok {
			h.Name, h.Typeflag, h.Size, content = name, tar.TypeReg, int64(len(value)), value
		} else {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		check(t, w.WriteHeader(h))
		_, err := w.Write([]byte(content))
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}

// TestUnpack adds archives to a directory /x that has a file, and a link up to the root of the image.
func TestUnpack(t *testing.T) {
	cases := []struct {
		name    string
		entries []string
		want    []string
		fails   string
	}{
		{"plain", []string{"a/", "a/f=1", "g=2"},
			[]string{"/x/", "/x/a/", "/x/a/f=1", "/x/g=2", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
		{"missing directories", []string{"p/q/f=1"},
			[]string{"/x/", "/x/old/", "/x/old/f=old", "/x/p/", "/x/p/q/", "/x/p/q/f=1", "/x/up -> /"}, ""},
		{"dots stay inside", []string{"../../f=1", "/abs=2"},
			[]string{"/x/", "/x/abs=2", "/x/f=1", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
		{"links stay inside", []string{"up/f=1", "esc -> ../../..", "esc/g=2"},
			[]string{"/x/", "/x/esc -> ../../..", "/x/f=1", "/x/g=2", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
		{"directory for a link", []string{"up/", "up/f=1"},
			[]string{"/x/", "/x/old/", "/x/old/f=old", "/x/up/", "/x/up/f=1"}, ""},
		{"file for a directory", []string{"old=1"}, []string{"/x/", "/x/old=1", "/x/up -> /"}, ""},
		{"file, then directory", []string{"old=1", "old/", "old/g=2"},
			[]string{"/x/", "/x/old/", "/x/old/g=2", "/x/up -> /"}, ""},
		{"whiteout", []string{"old/.wh.f=", "old/.wh..wh..opq="}, []string{"/x/", "/x/old/", "/x/up -> /"}, ""},
		{"hard links", []string{"a=1", "b => a", "old/c => old/f"},
			[]string{"/x/", "/x/a=1", "/x/b=1", "/x/old/", "/x/old/c=old", "/x/old/f=old", "/x/up -> /"}, ""},
		{"hard link to nothing", []string{"b => /etc/passwd"}, nil, `entry "b"`},
		{"same name twice", []string{"a=1", "a=2"},
			[]string{"/x/", "/x/a=2", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.write(t, b.parentDir, "x/old/f", "old")
			check(t, os.Symlink("/", filepath.Join(b.parentDir, "x/up")))
			check(t, os.WriteFile(filepath.Join(b.srcDir, "t.bin"), archive(t, c.entries...), 0o644))
			_, err := b.apply(t, add("/t.bin", "/x/"))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, b.names(t)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestUnpackCompressed: ADD detects each compression by the content and keeps the owners in the archive.
func TestUnpackCompressed(t *testing.T) {
	plain := archive(t, "f=1")
	compress := map[string]func(w *bytes.Buffer) error{
		"none": func(w *bytes.Buffer) error { _, err := w.Write(plain); return err },
		"gzip": func(w *bytes.Buffer) error {
			z := gzip.NewWriter(w)
			_, err := z.Write(plain)
			return errors.Join(err, z.Close())
		},
		"xz": func(w *bytes.Buffer) error {
			z, err := xz.NewWriter(w)
			if err != nil {
				return err
			}
			_, err = z.Write(plain)
			return errors.Join(err, z.Close())
		},
		"zstd": func(w *bytes.Buffer) error {
			z, err := zstd.NewWriter(w)
			if err != nil {
				return err
			}
			_, err = z.Write(plain)
			return errors.Join(err, z.Close())
		},
	}
	for name, f := range compress {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			var out bytes.Buffer
			check(t, f(&out))
			check(t, os.WriteFile(filepath.Join(b.srcDir, "no-suffix"), out.Bytes(), 0o644))
			if _, err := b.apply(t, add("/no-suffix", "/to")); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]string{"/to/", "/to/f=1"}, b.names(t)); d != "" {
				t.Error(d)
			}
			var st unix.Stat_t
			check(t, unix.Lstat(filepath.Join(b.upper, "to/f"), &st))
			if st.Uid != 5 || st.Gid != 6 {
				t.Errorf("owner %d:%d", st.Uid, st.Gid)
			}
		})
	}
}

// TestNoArchive: a file that only looks like an archive is copied unchanged.
func TestNoArchive(t *testing.T) {
	for _, content := range []string{"", "text", "\x1f\x8b\x08 not gzip", string(make([]byte, 1024))} {
		b := newBench(t)
		check(t, os.WriteFile(filepath.Join(b.srcDir, "f"), []byte(content), 0o644))
		if _, err := b.apply(t, add("/f", "/to")); err != nil {
			t.Fatal(err)
		}
		if got := b.names(t); !slices.Equal(got, []string{"/to=" + content}) {
			t.Errorf("got %q", got)
		}
	}
}
