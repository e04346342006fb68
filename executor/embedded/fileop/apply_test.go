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
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/solver/pb"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// bench is one parent, one source and an empty layer.
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

// context is the source as a build context.
func (b *bench) context(t *testing.T) *tree.Local {
	t.Helper()
	local, err := tree.OpenLocal(t.Context(), b.srcDir, nil, nil)
	check(t, err)
	t.Cleanup(func() { _ = local.Close() })
	return local
}

// applyOf applies actions that read from another tree than the bench's own.
func (b *bench) applyOf(t *testing.T, from tree.FS, actions ...*pb.FileAction) (fileop.Result, error) {
	t.Helper()
	return fileop.Apply(t.Context(), fileop.Request{
		Op: &pb.FileOp{Actions: actions}, Inputs: []tree.FS{b.parent, from}, Parent: b.parent, Upper: b.upper,
	})
}

// names lists the merged tree: names, a slash behind directories, the content behind files.
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
	return &pb.FileAction{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: p, Mode: 0o755, MakeParents: parents, Timestamp: -1}}}
}

func mkfile(p, content string) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: p, Mode: 0o644, Data: []byte(content), Timestamp: -1}}}
}

func rm(p string, wildcard, missing bool) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: p, AllowWildcard: wildcard, AllowNotFound: missing}}}
}

func symlink(target, p string) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: target, Newpath: p, Timestamp: -1}}}
}

func add(src, dest string) *pb.FileAction {
	return &pb.FileAction{SecondaryInput: 1, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
		Src: src, Dest: dest, Mode: -1, Timestamp: -1, FollowSymlink: true, DirCopyContents: true, CreateDestPath: true,
		AllowWildcard: true, AttemptUnpackDockerCompatibility: true,
	}}}
}

func TestActions(t *testing.T) {
	cases := []struct {
		name    string
		actions []*pb.FileAction
		want    []string
		fails   string
	}{
		{"directories", []*pb.FileAction{mkdir("/a/b/c", true)}, []string{"/a/", "/a/b/", "/a/b/c/", "/dir/", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"no folder", []*pb.FileAction{mkdir("/a/b", false)}, nil, "make directory /a/b"},
		{"through a link", []*pb.FileAction{mkdir("/link/sub", true), mkfile("/link/x", "new")},
			[]string{"/dir/", "/dir/sub/", "/dir/x=new", "/dir/y=y", "/link -> dir"}, ""},
		{"file over directory", []*pb.FileAction{mkfile("/dir", "new")}, nil, "is a directory"},
		{"remove and make again", []*pb.FileAction{rm("/dir", false, false), mkdir("/dir", false), mkfile("/dir/z", "z")},
			[]string{"/dir/", "/dir/z=z", "/link -> dir"}, ""},
		{"remove, file, remove, directory", []*pb.FileAction{rm("/dir", false, false), mkfile("/dir", "f"), rm("/dir", false, false), mkdir("/dir", false)},
			[]string{"/dir/", "/link -> dir"}, ""},
		{"remove what was made", []*pb.FileAction{mkfile("/new", "1"), rm("/new", false, false)}, []string{"/dir/", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"remove a link", []*pb.FileAction{rm("/link", false, false)}, []string{"/dir/", "/dir/x=x", "/dir/y=y"}, ""},
		{"remove by wildcard", []*pb.FileAction{rm("/dir/*", true, false)}, []string{"/dir/", "/link -> dir"}, ""},
		{"remove what is not there", []*pb.FileAction{rm("/none", false, false)}, nil, `"/none" is not there`},
		{"remove what may be missing", []*pb.FileAction{rm("/none", false, true)}, []string{"/dir/", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"link", []*pb.FileAction{symlink("/etc/passwd", "/dir/l")}, []string{"/dir/", "/dir/l -> /etc/passwd", "/dir/x=x", "/dir/y=y", "/link -> dir"}, ""},
		{"link in the way", []*pb.FileAction{symlink("/etc", "/dir/x")}, nil, "is there already"},
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

// archive makes a tar of "name=content", "name/", "name -> target" and "name => hard link".
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

func TestUnpack(t *testing.T) {
	cases := []struct {
		name    string
		entries []string
		want    []string
		fails   string
	}{
		{"plain", []string{"a/", "a/f=1", "g=2"}, []string{"/x/", "/x/a/", "/x/a/f=1", "/x/g=2", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
		{"missing folders", []string{"p/q/f=1"}, []string{"/x/", "/x/old/", "/x/old/f=old", "/x/p/", "/x/p/q/", "/x/p/q/f=1", "/x/up -> /"}, ""},
		{"dots stay inside", []string{"../../f=1", "/abs=2"}, []string{"/x/", "/x/abs=2", "/x/f=1", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
		{"links stay inside", []string{"up/f=1", "esc -> ../../..", "esc/g=2"},
			[]string{"/x/", "/x/esc -> ../../..", "/x/f=1", "/x/g=2", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
		{"directory for a link", []string{"up/", "up/f=1"}, []string{"/x/", "/x/old/", "/x/old/f=old", "/x/up/", "/x/up/f=1"}, ""},
		{"file for a directory", []string{"old=1"}, []string{"/x/", "/x/old=1", "/x/up -> /"}, ""},
		{"file, then directory", []string{"old=1", "old/", "old/g=2"}, []string{"/x/", "/x/old/", "/x/old/g=2", "/x/up -> /"}, ""},
		{"whiteout", []string{"old/.wh.f=", "old/.wh..wh..opq="}, []string{"/x/", "/x/old/", "/x/up -> /"}, ""},
		{"hard links", []string{"a=1", "b => a", "old/c => old/f"},
			[]string{"/x/", "/x/a=1", "/x/b=1", "/x/old/", "/x/old/c=old", "/x/old/f=old", "/x/up -> /"}, ""},
		{"hard link to nothing", []string{"b => /etc/passwd"}, nil, `entry "b"`},
		{"same name twice", []string{"a=1", "a=2"}, []string{"/x/", "/x/a=2", "/x/old/", "/x/old/f=old", "/x/up -> /"}, ""},
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

// TestNoArchive: what only looks like an archive is copied as it is.
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

// TestChanged: a file of a context that changes between key and copy is an error.
func TestChanged(t *testing.T) {
	b := newBench(t)
	b.write(t, b.srcDir, "f", "one")
	local := b.context(t)
	if _, err := local.Digest(t.Context(), "/f"); err != nil {
		t.Fatal(err)
	}
	b.write(t, b.srcDir, "f", "two")
	if _, err := b.applyOf(t, local, add("/f", "/g")); !errors.Is(err, tree.ErrChanged) {
		t.Errorf("got %v", err)
	}
}

// TestTimeOfContext: a copy of a whole context is a directory with the context's time, as copies of its directories have theirs.
func TestTimeOfContext(t *testing.T) {
	b := newBench(t)
	b.write(t, b.srcDir, "sub/f", "f")
	at := time.Unix(1700000000, 123000)
	for _, dir := range []string{"sub", ""} {
		check(t, os.Chtimes(filepath.Join(b.srcDir, dir), at, at))
	}
	_, err := b.applyOf(t, b.context(t), add("/", "/all"))
	check(t, err)
	for _, dir := range []string{"all", "all/sub"} {
		info, err := os.Stat(filepath.Join(b.upper, dir))
		check(t, err)
		if !info.ModTime().Equal(at) {
			t.Errorf("%s has the time %s, want %s", dir, info.ModTime(), at)
		}
	}
}

// TestFileSystemsInContext: file systems in one context count their inodes each for itself, so one number in two is not one file.
func TestFileSystemsInContext(t *testing.T) {
	b := newBench(t)
	for _, d := range []string{"one", "two"} {
		dir := filepath.Join(b.srcDir, d)
		check(t, os.Mkdir(dir, 0o755))
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			skip(t, "needs to mount file systems: "+err.Error())
		}
		t.Cleanup(func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
		b.write(t, dir, "f", d)
		check(t, os.Link(dir+"/f", dir+"/g"))
	}
	_, err := b.applyOf(t, b.context(t), add("/", "/all"))
	check(t, err)
	for _, d := range []string{"one", "two"} {
		for _, name := range []string{"f", "g"} {
			if got, err := os.ReadFile(filepath.Join(b.upper, "all", d, name)); err != nil || string(got) != d {
				t.Errorf("%s/%s: %q, %v", d, name, got, err)
			}
		}
	}
}

// TestRecheck: the same look-ups on a parent that differs elsewhere give the same layer; on one that differs there, not.
func TestRecheck(t *testing.T) {
	b := newBench(t)
	b.write(t, b.parentDir, "app/old", "1")
	b.write(t, b.srcDir, "f", "new")
	res, err := b.apply(t, add("/f", "/app/"))
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		change func(dir string) error
		want   bool
	}{
		{"nothing", func(string) error { return nil }, true},
		{"elsewhere", func(dir string) error { return os.WriteFile(filepath.Join(dir, "other"), nil, 0o644) }, true},
		{"mode of the folder", func(dir string) error { return os.Chmod(filepath.Join(dir, "app"), 0o700) }, false},
		{"folder gone", func(dir string) error { return os.RemoveAll(filepath.Join(dir, "app")) }, false},
		{"directory in the way", func(dir string) error { return os.Mkdir(filepath.Join(dir, "app/f"), 0o755) }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, os.Chmod(dir, 0o755))
			check(t, os.Mkdir(filepath.Join(dir, "app"), 0o755))
			check(t, c.change(dir))
			v := layerfs.NewView([]layerfs.Layer{{ID: "o", Dir: dir}})
			defer v.Close()
			if got := fileop.Recheck(v, res.Lookups); got != c.want {
				t.Errorf("got %v; look-ups %v", got, res.Lookups)
			}
		})
	}
}
