package fileop_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// bench is a parent, a source and an empty layer.
type bench struct {
	parentDir, srcDir, upper string
	parent, src              *layerfs.View
}

func newBench(t *testing.T) *bench {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	b := &bench{filepath.Join(dir, "parent"), filepath.Join(dir, "src"), filepath.Join(dir, "upper"), nil, nil}
	for _, d := range []string{b.parentDir, b.srcDir, b.upper} {
		check(t, os.Mkdir(d, 0o755))
	}
	b.parent = layerfs.NewView([]layerfs.Layer{{ID: "p", Dir: b.parentDir}})
	b.src = layerfs.NewView([]layerfs.Layer{{ID: "s", Dir: b.srcDir}})
	t.Cleanup(func() { b.parent.Close(); b.src.Close() })
	return b
}

func (b *bench) write(t *testing.T, root, name, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
	check(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
}

func (b *bench) apply(t *testing.T, actions ...*pb.FileAction) (fileop.Result, error) {
	t.Helper()
	return b.applyOf(t, b.src, actions...)
}

// context opens the source as a build context.
func (b *bench) context(t *testing.T) *tree.Local {
	t.Helper()
	local, err := tree.OpenLocal(t.Context(), b.srcDir, nil, nil)
	check(t, err)
	t.Cleanup(func() { _ = local.Close() })
	return local
}

// applyOf applies actions that copy from the tree from instead of the source.
func (b *bench) applyOf(t *testing.T, from tree.FS, actions ...*pb.FileAction) (fileop.Result, error) {
	t.Helper()
	return fileop.Apply(t.Context(), fileop.Request{
		Op: &pb.FileOp{Actions: actions}, Inputs: []tree.FS{b.parent, from}, Parent: b.parent, Upper: b.upper,
	})
}

// names lists the merged tree: "name/" for directories, "name=content" for files, "name -> target" for links.
func (b *bench) names(t *testing.T) []string {
	t.Helper()
	v := layerfs.NewView([]layerfs.Layer{{ID: "p", Dir: b.parentDir}, {ID: "u", Dir: b.upper}})
	defer v.Close()
	var all []string
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := v.ReadDir(dir)
		check(t, err)
		for _, e := range entries {
			switch {
			case e.IsDir():
				all = append(all, e.Path+"/")
				walk(e.Path)
			case e.IsLink():
				all = append(all, e.Path+" -> "+e.Link)
			case e.IsRegular():
				raw, err := readAll(v, e.Path)
				check(t, err)
				all = append(all, e.Path+"="+string(raw))
			default:
				all = append(all, e.Path)
			}
		}
	}
	walk("/")
	return all
}

func mkdir(p string, parents bool) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{
		Path: p, Mode: 0o755, MakeParents: parents, Timestamp: -1,
	}}}
}

func mkfile(p, content string) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{
		Path: p, Mode: 0o644, Data: []byte(content), Timestamp: -1,
	}}}
}

func rm(p string, wildcard, missing bool) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{
		Path: p, AllowWildcard: wildcard, AllowNotFound: missing,
	}}}
}

func symlink(target, p string) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{
		Oldpath: target, Newpath: p, Timestamp: -1,
	}}}
}

func add(src, dest string) *pb.FileAction {
	return &pb.FileAction{SecondaryInput: 1, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
		Src: src, Dest: dest, Mode: -1, Timestamp: -1, FollowSymlink: true, DirCopyContents: true, CreateDestPath: true,
		AllowWildcard: true, AttemptUnpackDockerCompatibility: true,
	}}}
}

// TestActions compares the merged tree after each list of actions.
func TestActions(t *testing.T) {
	cases := []struct {
		name    string
		actions []*pb.FileAction
		want    []string
		fails   string
	}{
		{"directories", []*pb.FileAction{mkdir("/a/b/c", true)},
			[]string{"/a/", "/a/b/", "/a/b/c/", "/dir/", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"parent missing", []*pb.FileAction{mkdir("/a/b", false)}, nil, "make directory /a/b"},
		{"through a link", []*pb.FileAction{mkdir("/link/sub", true), mkfile("/link/x", "new")},
			[]string{"/dir/", "/dir/sub/", "/dir/x=new", "/dir/y=y", "/link -> dir"}, ""},
		{"file over directory", []*pb.FileAction{mkfile("/dir", "new")}, nil, "is a directory"},
		{"remove and make again",
			[]*pb.FileAction{rm("/dir", false, false), mkdir("/dir", false), mkfile("/dir/z", "z")},
			[]string{"/dir/", "/dir/z=z", "/link -> dir"}, ""},
		{"remove, file, remove, directory",
			[]*pb.FileAction{rm("/dir", false, false), mkfile("/dir", "f"), rm("/dir", false, false),
				mkdir("/dir", false)},
			[]string{"/dir/", "/link -> dir"}, ""},
		{"remove a new file", []*pb.FileAction{mkfile("/new", "1"), rm("/new", false, false)},
			[]string{"/dir/", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"remove a link", []*pb.FileAction{rm("/link", false, false)}, []string{"/dir/", "/dir/x=x", "/dir/y=y"}, ""},
		{"remove by wildcard", []*pb.FileAction{rm("/dir/*", true, false)}, []string{"/dir/", "/link -> dir"}, ""},
		{"remove a missing file", []*pb.FileAction{rm("/none", false, false)}, nil, `"/none" not found`},
		{"remove a file that may be missing", []*pb.FileAction{rm("/none", false, true)},
			[]string{"/dir/", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"link", []*pb.FileAction{symlink("/etc/passwd", "/dir/l")},
			[]string{"/dir/", "/dir/l -> /etc/passwd", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"link over a file", []*pb.FileAction{symlink("/etc", "/dir/x")}, nil, "already exists"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.write(t, b.parentDir, "dir/x", "x")
			b.write(t, b.parentDir, "dir/y", "y")
			check(t, os.Symlink("dir", filepath.Join(b.parentDir, "link")))
			_, err := b.apply(t, c.actions...)
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
