package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestFindSubtree(t *testing.T) {
	base := t.TempDir()
	top, mid, low := filepath.Join(base, "top"), filepath.Join(base, "mid"), filepath.Join(base, "low")
	for _, d := range []string{top + "/a/b", mid + "/a/b", mid + "/o/p", low + "/a/b", low + "/o/p", low + "/o/q", low +
		"/w/x", mid + "/g"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{mid + "/a/b/f", low + "/a/b/f", low + "/w/x/f", low + "/g"} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(mid+"/o", "user.overlay.opaque", []byte("y"), 0); err != nil {
		lack(t, "no user xattrs here: "+err.Error())
	}
	if err := unix.Mknod(mid+"/w", unix.S_IFCHR, 0); err != nil {
		lack(t, "no whiteouts here: "+err.Error())
	}
	layers := []string{top, mid, low}
	for _, c := range []struct {
		path    string
		want    subtree
		missing bool
	}{
		{"/", subtree{dirs: layers}, false},
		{"/a/b", subtree{dirs: []string{top + "/a/b", mid + "/a/b", low + "/a/b"}}, false},
		{"/a/b/f", subtree{file: mid + "/a/b/f"}, false},
		{"/o/p", subtree{dirs: []string{mid + "/o/p"}}, false},
		{"/o/q", subtree{}, true},
		{"/w/x", subtree{}, true},
		{"/g", subtree{dirs: []string{mid + "/g"}}, false},
		{"/g/x", subtree{}, true},
		{"/none", subtree{}, true},
	} {
		got, err := findSubtree(layers, c.path)
		if missing := errors.Is(err, fs.ErrNotExist); missing != c.missing || err != nil && !missing {
			t.Errorf("%s: %v", c.path, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(subtree{})); diff != "" {
			t.Errorf("%s: %s", c.path, diff)
		}
	}
}
