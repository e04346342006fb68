package embedded

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/tree"
)

// TestRootOfList: a list of paths says nothing about the root that the unpacked layer does not have.
func TestRootOfList(t *testing.T) {
	root := func(change func(*tree.Node)) tree.Node {
		n := tree.Node{Entry: tree.Entry{Path: "/", Mode: unix.S_IFDIR | 0o755}}
		change(&n)
		return n
	}
	for name, c := range map[string]struct {
		change        func(*tree.Node)
		alone, listed bool // whether it is right where the tar does not list the root, and where it does
	}{
		"default":            {func(*tree.Node) {}, true, true},
		"mode":               {func(n *tree.Node) { n.Entry.Mode = unix.S_IFDIR | 0o1711 }, true, false},
		"owner":              {func(n *tree.Node) { n.Entry.UID = 7 }, true, false},
		"group":              {func(n *tree.Node) { n.Entry.GID = 7 }, true, false},
		"overlay attribute":  {func(n *tree.Node) { setXattr(n, "trusted.overlay.origin") }, true, true},
		"whiteout":           {func(n *tree.Node) { n.Whiteout = true }, false, false},
		"opaque":             {func(n *tree.Node) { n.Opaque = true }, false, false},
		"file":               {func(n *tree.Node) { n.Entry.Mode = unix.S_IFREG | 0o755 }, false, false},
		"link":               {func(n *tree.Node) { n.Entry.Link = "/etc" }, false, false},
		"link mode":          {func(n *tree.Node) { n.Entry.Mode = unix.S_IFLNK | 0o755 }, false, false},
		"device":             {func(n *tree.Node) { n.Entry.Rdev = 1 }, false, false},
		"bits above":         {func(n *tree.Node) { n.Entry.Mode |= 1 << 20 }, false, false},
		"extended attribute": {func(n *tree.Node) { setXattr(n, "user.x") }, false, false},
	} {
		for _, listed := range []bool{false, true} {
			want := c.alone
			if listed {
				want = c.listed
			}
			a := newAgreement([]layers.Record{{Path: "/", Mode: unix.S_IFDIR | 0o755, Implied: !listed}})
			if got := a.next(root(c.change)); got != want {
				t.Errorf("%s, listed %t: the root agrees %t", name, listed, got)
			}
		}
	}
}

func setXattr(n *tree.Node, name string) { n.Xattrs = map[string][]byte{name: []byte("y")} }
