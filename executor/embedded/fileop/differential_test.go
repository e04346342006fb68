package fileop_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// TestCopyAsBuildKit makes random copies between random trees, and the same copies with the library that BuildKit uses.
// Both must result in the same tree, or both must fail.
func TestCopyAsBuildKit(t *testing.T) {
	needRoot(t)
	// As in buildkitd. Otherwise the library sets the mode of directories that it creates, and clears inherited bits.
	fscopy.UmaskIsZero = true
	defer unix.Umask(unix.Umask(0))
	rounds := 300
	if testing.Short() {
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("BAKE_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("seed %d", seed)
	for i := range rounds {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		if !t.Run(fmt.Sprint(i), func(t *testing.T) { oneCopy(t, r) }) {
			t.Fatalf("seed %d round %d", seed, i)
		}
	}
}

func oneCopy(t *testing.T, r *rand.Rand) {
	dir := t.TempDir()
	parent, src := filepath.Join(dir, "parent"), filepath.Join(dir, "src")
	upper, theirs := filepath.Join(dir, "upper"), filepath.Join(dir, "theirs")
	for _, d := range []string{parent, src, upper, theirs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	state := *r
	grow(t, rand.New(rand.NewPCG(r.Uint64(), 1)), parent, theirs)
	grow(t, rand.New(rand.NewPCG(state.Uint64(), 2)), src)
	a := randomCopy(r)
	t.Logf("%v", a)

	from := layerfs.NewView([]layerfs.Layer{{ID: "src", Dir: src}})
	defer from.Close()
	to := layerfs.NewView([]layerfs.Layer{{ID: "p", Dir: parent}})
	defer to.Close()
	op := &pb.FileOp{Actions: []*pb.FileAction{{Input: 0, SecondaryInput: 1, Action: &pb.FileAction_Copy{Copy: a}}}}
	_, ourErr := fileop.Apply(t.Context(), fileop.Request{
		Op: op, Inputs: []tree.FS{to, from}, Parent: to, Upper: upper,
	})
	theirErr := peerCopy(t.Context(), src, theirs, a)
	if ourErr == nil && errors.Is(theirErr, unix.ENOTDIR) {
		return // BuildKit looks below a file and fails; here such a path does not exist
	}
	if ourErr == nil && theirErr != nil && strings.Contains(theirErr.Error(), "cannot copy to non-directory") {
		return // a directory that lands on a link to a directory is copied behind it
	}
	if (ourErr == nil) != (theirErr == nil) {
		t.Fatalf("ours: %v\ntheirs: %v", ourErr, theirErr)
	}
	if ourErr != nil {
		return
	}
	merged := layerfs.NewView([]layerfs.Layer{{ID: "p", Dir: parent}, {ID: "u", Dir: upper}})
	defer merged.Close()
	peer := layerfs.NewView([]layerfs.Layer{{ID: "t", Dir: theirs}})
	defer peer.Close()
	if d := cmp.Diff(list(t, peer), list(t, merged)); d != "" {
		from := list(t, from)
		t.Logf("source:\n%s\nparent:\n%s", strings.Join(from, "\n"), strings.Join(list(t, to), "\n"))
		t.Errorf("theirs -, ours +\n%s", d)
	}
}

// peerCopy copies as BuildKit's file backend does.
func peerCopy(ctx context.Context, src, dest string, a *pb.FileActionCopy) error {
	clean := func(p string) string {
		q := path.Join("/", p)
		if p != "/" && strings.HasSuffix(p, "/") {
			q += "/"
		}
		return q
	}
	matches := []string{clean(a.Src)}
	if a.AllowWildcard {
		var err error
		if matches, err = fscopy.ResolveWildcards(src, clean(a.Src), a.FollowSymlink); err != nil {
			return err
		}
		if len(matches) == 0 && !a.AllowEmptyWildcard {
			return errors.New("not found")
		}
	}
	for _, m := range matches {
		if a.AllowWildcard && strings.ContainsAny(a.Src, "*?[") && leftOut(src, m, a) {
			continue
		}
		err := fscopy.Copy(ctx, src, m, dest, clean(a.Dest), func(ci *fscopy.CopyInfo) {
			ci.IncludePatterns, ci.ExcludePatterns = a.IncludePatterns, a.ExcludePatterns
			if o := a.Owner; o != nil {
				ci.Chown = func(*fscopy.User) (*fscopy.User, error) {
					return &fscopy.User{UID: int(o.User.GetByID()), GID: int(o.User.GetByID())}, nil
				}
			}
			if a.ModeStr != "" {
				ci.ModeStr = a.ModeStr
			} else if m := int(a.Mode); m != -1 {
				ci.Mode = &m
			}
			ci.CopyDirContents, ci.FollowLinks = a.DirCopyContents, a.FollowSymlink
			ci.AlwaysReplaceExistingDestPaths = a.AlwaysReplaceExistingDestPaths
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// leftOut reports whether the patterns exclude a match itself, at its name or its path. BuildKit does not do this.
func leftOut(root, match string, a *pb.FileActionCopy) bool {
	m, err := patternmatcher.New(a.ExcludePatterns)
	if err != nil || len(a.ExcludePatterns) == 0 {
		return false
	}
	info, err := os.Lstat(filepath.Join(root, match))
	if err == nil && info.IsDir() && m.Exclusions() {
		return false
	}
	match = strings.Trim(match, "/")
	fixed := path.Dir(a.Src[:strings.IndexAny(a.Src, "*?[")+1])
	for _, p := range []string{match, strings.TrimPrefix("/"+match, strings.TrimSuffix(fixed, "/")+"/")} {
		if out, err := m.MatchesOrParentMatches(p); err == nil && out {
			return true
		}
	}
	return false
}

var names = []string{"a", "b", "c", "d.txt"}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomPath(r *rand.Rand) string {
	p := ""
	for range 1 + r.IntN(3) {
		p += "/" + pick(r, names...)
	}
	return p
}

// grow creates the same random tree in every root.
func grow(t *testing.T, r *rand.Rand, roots ...string) {
	t.Helper()
	for range r.IntN(14) {
		p, kind, id := randomPath(r), r.IntN(10), r.IntN(3)
		mode := pick(r, os.FileMode(0o644), 0o600, 0o755, 0o750, 0o775|os.ModeSetgid)
		link := pick(r, "a", "/b", "../c", "nowhere", "d.txt", ".", "/a/b")
		at := time.Unix(1_000_000_000+int64(r.IntN(1000)), 0)
		for _, root := range roots {
			full := filepath.Join(root, p)
			if os.MkdirAll(filepath.Dir(full), 0o755) != nil {
				continue
			}
			if _, err := os.Lstat(full); err == nil {
				continue
			}
			// A link above the path could lead out of the tree of this test.
			if real, err := filepath.EvalSymlinks(filepath.Dir(full)); err != nil || real != filepath.Dir(full) {
				continue
			}
			switch {
			case kind < 5:
				check(t, os.WriteFile(full, []byte(p), 0o600))
			case kind < 7:
				check(t, os.Mkdir(full, 0o700))
			case kind < 9:
				check(t, os.Symlink(link, full))
			default:
				check(t, unix.Mkfifo(full, 0o600))
			}
			check(t, os.Lchown(full, id, id))
			if kind < 7 || kind == 9 {
				check(t, os.Chmod(full, mode))
				check(t, os.Chtimes(full, at, at))
			}
		}
	}
}

func randomCopy(r *rand.Rand) *pb.FileActionCopy {
	src := pick(r, "/", randomPath(r), randomPath(r), "/a", "/b", "/*", "/a/*", "/*/*", "/?.txt", "/d*")
	dest := pick(r, "/", "/x", "/x/", "/x/y", randomPath(r), randomPath(r)+"/", "/a", "/b/")
	a := &pb.FileActionCopy{
		Src:                            src,
		Dest:                           dest,
		Mode:                           pick[int32](r, -1, -1, -1, 0o640, 0o2755),
		ModeStr:                        pick(r, "", "", "", "u+x,go-w", "a=rX"),
		FollowSymlink:                  r.IntN(3) > 0,
		DirCopyContents:                r.IntN(3) > 0,
		CreateDestPath:                 true,
		AllowWildcard:                  r.IntN(4) > 0,
		AllowEmptyWildcard:             r.IntN(2) > 0,
		Timestamp:                      -1,
		AlwaysReplaceExistingDestPaths: r.IntN(4) == 0,
	}
	if r.IntN(4) == 0 {
		a.IncludePatterns = []string{pick(r, "a", "b/*", "*/c", "**/d.txt", "*")}
	}
	if r.IntN(4) == 0 {
		a.ExcludePatterns = []string{pick(r, "a", "b/*", "*/c", "**/d.txt"), pick(r, "!a/b", "c", "!b/a")}
	}
	if r.IntN(4) == 0 {
		user := &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: 7}}
		a.Owner = &pb.ChownOpt{User: user, Group: user}
	}
	return a
}

// list returns one line for each path of a tree.
func list(t *testing.T, f tree.FS) []string {
	t.Helper()
	var all []string
	var walk func(p string)
	walk = func(p string) {
		e, err := f.Lookup(p)
		check(t, err)
		line := fmt.Sprintf("%s %o %d:%d %s", p, e.Mode, e.UID, e.GID, e.Link)
		if e.IsRegular() {
			raw, err := readAll(f, p)
			check(t, err)
			line += fmt.Sprintf(" %d %q", e.Mtime.Unix(), raw)
		}
		all = append(all, line)
		if !e.IsDir() {
			return
		}
		entries, err := f.ReadDir(p)
		check(t, err)
		for _, e := range entries {
			walk(e.Path)
		}
	}
	walk("/")
	return all
}

func readAll(f tree.FS, p string) ([]byte, error) {
	file, err := f.Open(p)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, info.Size())
	_, err = file.ReadAt(raw, 0)
	return raw, err
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root to create files of other owners")
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
