package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// checkOut fetches one commit with its submodules into an empty directory. It returns the time of the commit.
func (f *Fetcher) checkOut(ctx context.Context, dir string, r Repository, commit string) (time.Time, error) {
	if f.Offline {
		return time.Time{}, errOffline
	}
	// The directory of templates is this machine's: its hooks and files would become part of images.
	start := []string{"init", "--quiet", "--template="}
	if len(commit) == 64 {
		start = append(start, "--object-format=sha256")
	}
	c := &checkout{f: f, dir: dir, r: r, commit: commit}
	err := c.git(ctx, start...)
	if err == nil {
		err = c.git(ctx, "remote", "add", "--", "origin", Public(r.Remote))
	}
	if err == nil {
		err = c.fetch(ctx)
	}
	if err == nil {
		err = c.git(ctx, "checkout", "--quiet", "--force", "--detach", commit)
	}
	if err != nil {
		return time.Time{}, err
	}
	if _, err := os.Lstat(filepath.Join(dir, ".gitmodules")); err == nil && !r.NoSubmodules {
		if err := c.submodules(ctx); err != nil {
			return time.Time{}, err
		}
	}
	at, err := c.time(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if !r.KeepGitDir || r.SubDir != "" {
		return at, removeGitDirs(dir)
	}
	return at, c.finishGitDir(ctx)
}

// checkout is a repository of one commit while it is created.
type checkout struct {
	f      *Fetcher
	dir    string
	r      Repository
	commit string
	whole  bool // the history of the commit was fetched too
}

func (c *checkout) git(ctx context.Context, args ...string) error {
	_, err := c.f.run(ctx, c.dir, c.r.Remote, args...)
	return err
}

// fetch fetches the commit: by its hash; else by its reference, since a server may refuse to serve a commit by its
// hash; else with all branches and tags, since a server of plain files serves no part of a history.
func (c *checkout) fetch(ctx context.Context) error {
	first := c.fetchRef(ctx, c.commit)
	if first == nil || ctx.Err() != nil {
		return first
	}
	if !isCommit(c.r.Ref) {
		err := c.fetchRef(ctx, cmp.Or(c.r.Ref, "HEAD"))
		if err == nil && c.has(ctx) {
			return nil
		}
	}
	args := []string{"fetch", "--quiet", "--refmap=", "--no-tags"}
	if _, err := os.Lstat(filepath.Join(c.dir, ".git/shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	all := []string{"--", "origin", "+refs/heads/*:refs/bake/heads/*", "+refs/tags/*:refs/bake/tags/*"}
	if c.git(ctx, append(args, all...)...) != nil {
		return first
	}
	if !c.has(ctx) {
		return fmt.Errorf("commit %s is on no branch or tag of the repository", c.commit)
	}
	c.whole = true
	// The repository has no other references yet.
	git := filepath.Join(c.dir, ".git")
	return errors.Join(os.RemoveAll(filepath.Join(git, "refs/bake")), os.RemoveAll(filepath.Join(git, "packed-refs")))
}

// fetchRef fetches a reference without its history.
func (c *checkout) fetchRef(ctx context.Context, spec string) error {
	return c.git(ctx, "fetch", "--quiet", "--refmap=", "--depth=1", "--no-tags", "--", "origin", spec)
}

// has reports whether the commit has been fetched.
func (c *checkout) has(ctx context.Context) bool {
	return c.git(ctx, "cat-file", "-e", c.commit+"^{commit}") == nil
}

// refusedPart matches git's messages when a server does not serve one commit, or one without its history.
var refusedPart = regexp.MustCompile(
	`(?i)depth|shallow|not our ref|unadvertised|did not contain|does not allow request`)

// submodules checks out the submodules, and theirs. A server of plain files refuses a part of a history.
func (c *checkout) submodules(ctx context.Context) error {
	update := []string{"submodule", "--quiet", "update", "--init", "--recursive"}
	err := c.git(ctx, append(update, "--depth=1")...)
	if err == nil || !refusedPart.MatchString(err.Error()) {
		return err
	}
	first := c.git(ctx, "submodule", "--quiet", "deinit", "--force", "--all")
	if err := errors.Join(first, os.RemoveAll(filepath.Join(c.dir, ".git/modules"))); err != nil {
		return err
	}
	return c.git(ctx, append(update, "--no-recommend-shallow")...)
}

// time returns the time of the commit.
func (c *checkout) time(ctx context.Context) (time.Time, error) {
	out, err := c.f.run(ctx, c.dir, c.r.Remote, "show", "--no-patch", "--no-show-signature", "--format=%ct",
		c.commit+"^{commit}")
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("commit %s has no valid time", c.commit)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// finishGitDir makes .git what BuildKit's has, as far as it depends on the repository only: HEAD is the commit; the
// requested branch or tag exists, a branch also as a tag. The index lists the files without their inodes and times.
func (c *checkout) finishGitDir(ctx context.Context) error {
	if err := c.setRefs(ctx); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.dir, ".git/FETCH_HEAD")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.git(ctx, "read-tree", "HEAD"); err != nil {
		return err
	}
	if c.whole {
		if err := c.cutHistory(ctx); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(c.dir, ".git/modules")); err != nil {
		return nil
	}
	return c.git(ctx, "submodule", "--quiet", "foreach", "--quiet", "--recursive", "git read-tree HEAD")
}

// cutHistory removes everything from .git but the commit and the tag, as if the server had served only these.
func (c *checkout) cutHistory(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(c.dir, ".git/shallow"), []byte(c.commit+"\n"), 0o644); err != nil {
		return err
	}
	if err := c.git(ctx, "repack", "-a", "-d", "-n", "-q"); err != nil {
		return err
	}
	return c.git(ctx, "prune", "--expire=now")
}

// setRefs creates the branch and the tag that BuildKit creates for a reference.
func (c *checkout) setRefs(ctx context.Context) error {
	if isCommit(c.r.Ref) {
		return nil
	}
	t, err := c.f.resolve(ctx, c.r)
	if err != nil && !c.r.ByCommit {
		return err
	}
	if t.tag != "" && t.commit == c.commit && strings.HasPrefix(t.ref, "refs/tags/") {
		err := c.fetchRef(ctx, t.ref+":"+t.ref)
		if err != nil && refusedPart.MatchString(err.Error()) {
			err = c.git(ctx, "fetch", "--quiet", "--refmap=", "--no-tags", "--", "origin", t.ref+":"+t.ref)
		}
		return err
	}
	ref := c.r.Ref
	if ref == "" {
		ref = strings.TrimPrefix(t.ref, "refs/heads/")
	}
	tag := "refs/tags/" + strings.TrimPrefix(ref, "refs/tags/")
	names := []string{tag}
	switch {
	case ref == "" || ref == "HEAD":
		return nil
	case strings.HasPrefix(ref, "refs/tags/"):
	case strings.HasPrefix(ref, "refs/"):
		names = append(names, ref)
	case strings.HasPrefix(ref, "heads/"):
		names = append(names, "refs/"+ref)
	default:
		names = append(names, "refs/heads/"+ref)
	}
	for _, name := range names {
		if err := c.git(ctx, "update-ref", "--no-deref", name, c.commit); err != nil {
			return err
		}
	}
	return nil
}

// removeGitDirs removes .git, also in submodules.
func removeGitDirs(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != ".git" || path == dir {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// normalize sets the modes of a checkout to those that git records, independent of the umask, and, with times, all
// times to that of the commit.
func normalize(dir string, at time.Time, times bool) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return setTime(path, at, times)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		if info.Mode()&0o200 == 0 { // an object in .git
			mode &^= 0o222
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		return setTime(path, at, times)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = setTime(dirs[i], at, times)
	}
	return err
}

// setTime sets the time of a file if set is true.
func setTime(path string, at time.Time, set bool) error {
	if !set {
		return nil
	}
	ts := unix.Timespec{Sec: at.Unix()}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	return os.NewSyscallError("utimensat", err)
}
