package layerfs_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// TestHardLinksOfLayers: each packed layer numbers its inodes from one, so equal numbers in two layers are different
// files.
func TestHardLinksOfLayers(t *testing.T) {
	for _, c := range []struct{ layers, want [][]string }{
		{[][]string{{"/a", "/b"}, {"/c", "/d"}}, [][]string{{"/a", "/b"}, {"/c", "/d"}}},
		{[][]string{{"/a", "/b", "/c", "/d"}}, [][]string{{"/a", "/b", "/c", "/d"}}},
		{[][]string{{"/a", "/b"}, {"/b", "/c"}}, [][]string{{"/a"}, {"/b", "/c"}}},
	} {
		var stack []layerfs.Layer
		for _, names := range c.layers {
			var nodes []tree.Node
			for _, name := range names {
				nodes = append(nodes, tree.Node{Entry: tree.Entry{
					Path: name, Mode: unix.S_IFREG | 0o644, Inode: 1, Nlink: uint32(len(names)),
				}})
			}
			stack = append(stack, layerfs.Layer{Index: tree.NewIndex(nodes)})
		}
		v := layerfs.NewView(stack)
		entries, err := v.ReadDir("/")
		check(t, err)
		files := map[tree.FileID][]string{}
		for _, e := range entries {
			found, err := v.Lookup(e.Path)
			check(t, err)
			id, ok := e.HardLinked()
			if found != e || !ok {
				t.Errorf("looked up %+v, listed %+v", found, e)
			}
			files[id] = append(files[id], e.Path)
		}
		check(t, v.Close())
		if d := cmp.Diff(c.want, slices.SortedFunc(maps.Values(files), slices.Compare)); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	}
}
