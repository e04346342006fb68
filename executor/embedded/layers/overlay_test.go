package layers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

func setXattr(p, name, value string) error { return unix.Lsetxattr(p, name, []byte(value), 0) }

// dirBelow is a Below of one directory.
type dirBelow struct{ dir string }

func (d dirBelow) Lookup(p string) (tree.Entry, error) {
	var st unix.Stat_t
	full := filepath.Join(d.dir, p)
	if err := unix.Lstat(full, &st); err != nil {
		return tree.Entry{}, &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	link, _ := os.Readlink(full)
	return tree.Entry{Path: p, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Link: link}, nil
}
func (d dirBelow) Xattrs(p string) (map[string][]byte, error) {
	x, err := readXattrsPath(filepath.Join(d.dir, p))
	return x, err
}
func (d dirBelow) Open(p string) (*os.File, error) { return os.Open(filepath.Join(d.dir, p)) }

func readXattrsPath(p string) (map[string][]byte, error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := xattrCall(func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) })
	out := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		if out[name], err = xattrCall(func(b []byte) (int, error) {
			return unix.Fgetxattr(int(f.Fd()), name, b)
		}); err != nil {
			return nil, err
		}
	}
	return out, err
}

// mountOverlay mounts layers, bottom first, in a mount namespace of this locked thread. The thread is never unlocked,
// so it ends with the test's goroutine, and the mounts end with it.
func mountOverlay(t *testing.T, layers ...string) string {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		skip(t, fmt.Sprint("no mount namespace:", " ", err))
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		skip(t, fmt.Sprint("no private mounts:", " ", err))
	}
	m := t.TempDir()
	lower := slices.Clone(layers)
	slices.Reverse(lower)
	if err := unix.Mount("overlay", m, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		skip(t, fmt.Sprint("no overlayfs:", " ", err))
	}
	t.Cleanup(func() { unix.Unmount(m, unix.MNT_DETACH) })
	return m
}

// TestWhiteoutsInOverlay: the kernel hides in an overlay of two unpacked layers what the markers of the tar remove.
func TestWhiteoutsInOverlay(t *testing.T) {
	requireRoot(t)
	lower, _, err := unpack(t, mkTar(t,
		reg("etc/gone", "1"), reg("etc/kept", "1"), reg("opaque/old", "1"), reg("again/old", "1"),
		reg("tree/sub/x", "1"),
	), nil)
	if err != nil {
		t.Fatal(err)
	}
	upper, _, err := unpack(t, mkTar(t,
		reg("etc/.wh.gone", ""), reg("opaque/new", "2"), reg("opaque/.wh..wh..opq", ""), reg(".wh.again", ""),
		reg("again/new", "2"), reg("tree/.wh.sub", ""),
	), dirBelow{lower})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []string)
	go func() { // a separate goroutine, since its thread must not be reused
		defer close(done)
		var got []string
		m := mountOverlay(t, lower, upper)
		filepath.WalkDir(m, func(p string, _ fs.DirEntry, err error) error {
			got = append(got, strings.TrimPrefix(p, m))
			return err
		})
		done <- got
	}()
	want := []string{"", "/again", "/again/new", "/etc", "/etc/kept", "/opaque", "/opaque/new", "/tree"}
	if diff := cmp.Diff(want, <-done); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
}

// TestImpliedParentsAndLowerLinks: a directory that the tar does not list has the attributes of the lower layer, and a
// hard link to a lower file copies it up, unless this layer hides it.
func TestImpliedParentsAndLowerLinks(t *testing.T) {
	requireRoot(t)
	private := dir("srv/")
	private.Mode, private.Uid = 0o700, 33
	setuid := reg("srv/su", "elf")
	setuid.Mode = 0o4755
	setuid.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
	root := dir("./")
	root.Mode = 0o711
	lower, _, err := unpack(t, mkTar(t, root, private, setuid), nil)
	if err != nil {
		t.Fatal(err)
	}
	upper, res, err := unpack(t, mkTar(t, reg("srv/new/f", "1"), hard("link", "srv/su")), dirBelow{lower})
	if err != nil {
		t.Fatal(err)
	}
	if !res.LinksBelow {
		t.Error("LinksBelow is not set")
	}
	for p, want := range map[string][3]uint32{
		"": {0o711, 0, 0}, "srv": {0o700, 33, 0}, "srv/new": {0o755, 0, 0},
		"srv/su": {0o4755, 0, 0}, "link": {0o4755, 0, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(upper, p), &st); err != nil {
			t.Error(err)
			continue
		}
		if got := [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}; got != want {
			t.Errorf("%q: %o, want %o", p, got, want)
		}
	}
	if got := xattr(t, filepath.Join(upper, "link"), "user.a"); got != "b" {
		t.Errorf("xattr of the link = %q", got)
	}
	_, _, err = unpack(t, mkTar(t, reg(".wh.srv", ""), hard("link", "srv/su")), dirBelow{lower})
	if err == nil {
		t.Error("Unpack accepted a hard link to a file that the layer hides")
	}
	if _, _, err = unpack(t, mkTar(t, hard("link", "srv/none")), dirBelow{lower}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v", err)
	}
}

// TestUserXattrs: in a user namespace, opaque directories have the attribute user.overlay.opaque.
func TestUserXattrs(t *testing.T) {
	requireRoot(t)
	d := t.TempDir()
	in := mkTar(t, reg("a/.wh..wh..opq", ""), file{reg("dev/null", "").Header, ""})
	_, err := Unpack(context.Background(), bytes.NewReader(in), UnpackOptions{Dir: d, UserXattr: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := xattr(t, filepath.Join(d, "a"), "user.overlay.opaque"); got != "y" {
		t.Errorf("user.overlay.opaque = %q", got)
	}
	want := []string{"5 a/", "0 a/.wh..wh..opq", "5 dev/", "0 dev/null"}
	if diff := cmp.Diff(want, list(t, pack(t, d, PackOptions{}))); diff != "" {
		t.Error(diff)
	}
}
