package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// copier runs one copy action. The caller's goroutine creates the files in order; other goroutines write their content.
//
// A copy follows symbolic links in two trees, and hostile ones must not lead out of either. In the source, tree.Select
// resolves the path inside the source tree. At the destination, the copier resolves links in the stage, which is the
// parent with the changes so far: COPY x /link/ writes to the directory that /link names in the image. The invariant:
// every path passed to the stage is free of links, and the stage opens it below upper with RESOLVE_NO_SYMLINKS. A link
// that is wrong or dangling thus fails the step or creates its target in the image; it never touches the host. A link
// that is itself copied stays a link and is not followed. TestActions ("through a link"), TestUnpack ("links stay
// inside") and TestCopyAsBuildKit, which compares random trees with BuildKit's copy, check this.
type copier struct {
	ctx       context.Context
	stage     *stage
	from      tree.FS
	overrides overrides
	replace   bool // replace existing files of another kind
	content   *errgroup.Group
	filler    filler
}

func doCopy(ctx context.Context, s *stage, from tree.FS, a *pb.FileActionCopy) error {
	l, err := newOverrides(s, a)
	if err != nil {
		return err
	}
	matches, err := tree.Select(ctx, from, keys.SelectionOf(a))
	if err != nil {
		return err
	}
	c := &copier{stage: s, from: from, overrides: l, replace: a.GetAlwaysReplaceExistingDestPaths()}
	c.content, c.ctx = errgroup.WithContext(ctx)
	c.filler.ctx = c.ctx
	c.content.SetLimit(runtime.GOMAXPROCS(0) + 1)
	err = c.matches(matches, a)
	if werr := c.content.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr
	}
	return err
}

// matches copies all matches of the source, in order.
func (c *copier) matches(matches []tree.Match, a *pb.FileActionCopy) error {
	if err := c.checkDest(a); err != nil {
		return err
	}
	for _, m := range matches {
		if a.GetAttemptUnpackDockerCompatibility() {
			done, err := c.unpack(m, a.GetDest())
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := c.match(m, a); err != nil {
			return err
		}
	}
	return nil
}

// checkDest returns an error if the directory of the destination is missing and the action must not create it.
func (c *copier) checkDest(a *pb.FileActionCopy) error {
	if a.GetCreateDestPath() {
		return nil
	}
	p, err := tree.Resolve(c.stage, a.GetDest(), true)
	if err != nil {
		return err
	}
	if _, err := c.stage.Lookup(path.Dir(p)); err != nil {
		return fmt.Errorf("directory of the destination %s: %w", a.GetDest(), err)
	}
	return nil
}

// match copies one match.
func (c *copier) match(m tree.Match, a *pb.FileActionCopy) error {
	dest, err := c.dest(a.GetDest())
	if err != nil {
		return err
	}
	if dest, err = c.target(dest, m, a.GetDirCopyContents()); err != nil {
		return err
	}
	links := map[tree.FileID]string{}
	var moved movedDirs
	for _, file := range m.Files {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		p, err := c.behindLink(moved.path(dest, file.Rel), file, &moved)
		if err != nil {
			return err
		}
		if p == "" {
			continue
		}
		if err := c.file(p, file, links); err != nil {
			return err
		}
	}
	return nil
}

// movedDirs are the directories of a match that landed on a link to a directory, such as /bin on usr/bin.
type movedDirs []movedDir

type movedDir struct{ rel, to string }

// path returns the destination of a file of a match.
func (d movedDirs) path(dest, rel string) string {
	for _, one := range slices.Backward(d) {
		if below, ok := strings.CutPrefix(rel, one.rel+"/"); ok {
			return path.Join(one.to, below)
		}
	}
	return path.Join(dest, rel)
}

// behindLink adds to moved a directory that lands on a link to a directory, and returns "": the files in it go behind
// the link, and the directory there keeps its attributes. It returns the path p of other files. BuildKit fails here:
// copying a tree with a bin onto an image whose /bin is a link is an error there.
func (c *copier) behindLink(p string, f tree.Selected, moved *movedDirs) (string, error) {
	if !f.Entry.IsDir() || c.replace || f.Rel == "" {
		return p, nil
	}
	at, err := c.stage.Lookup(p)
	if err != nil || !at.IsLink() {
		return p, nil // file reports the error
	}
	to, err := tree.Resolve(c.stage, p, true)
	if err != nil {
		return "", err
	}
	if e, err := c.stage.Lookup(to); err != nil || !e.IsDir() {
		return p, nil // file says that a directory cannot replace the link
	}
	*moved = append(*moved, movedDir{f.Rel, to})
	return "", nil
}

// dest resolves the links in a destination and creates its directory: the destination itself if it ends in a slash,
// its parent otherwise.
func (c *copier) dest(dest string) (string, error) {
	dir := dest
	if !strings.HasSuffix(dest, "/") && path.Base(dest) != "." {
		dir = path.Dir(dest)
	}
	dir, err := tree.Resolve(c.stage, dir, true)
	if err != nil {
		return "", err
	}
	if err := c.stage.mkdirAll(dir, c.overrides.parentDir()); err != nil {
		return "", err
	}
	return tree.Resolve(c.stage, path.Clean("/"+dest), true)
}

// target returns the path of a match: the destination, or a name in it. It creates the directory that holds the path.
func (c *copier) target(dest string, m tree.Match, contents bool) (string, error) {
	at, err := c.stage.Lookup(dest)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	isDir := m.Root.IsDir()
	if isDir && exists && !contents || !isDir && exists && at.IsDir() {
		dest = path.Join(dest, m.Name)
	}
	dir := path.Dir(dest)
	if contents && isDir && !exists {
		dir = dest
	}
	return dest, c.stage.mkdirAll(dir, c.overrides.parentDir())
}

// file copies one selected file to p. links holds the first path of each hard-linked file of this match.
func (c *copier) file(p string, f tree.Selected, links map[tree.FileID]string) error {
	at, err := c.stage.Lookup(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	if exists && c.replace && !f.Implied && !(f.Entry.IsDir() && at.IsDir()) {
		if err := c.stage.remove(p); err != nil {
			return err
		}
		exists = false
	}
	if f.Entry.IsDir() {
		return c.dir(p, f, at, exists)
	}
	if err := c.stage.clear(p); err != nil {
		return err
	}
	l, err := c.overrides.attrsOf(c.from, f.Entry)
	if err != nil {
		return err
	}
	switch f.Entry.Type() {
	case unix.S_IFREG:
		return c.regular(p, f.Entry, l, links)
	case unix.S_IFLNK:
		return c.stage.symlink(p, f.Entry.Link, l)
	default:
		return c.stage.node(p, f.Entry.Type(), f.Entry.Rdev, l)
	}
}

// dir copies a directory without its content. If the root of a match exists, it keeps its attributes except the time. A
// directory that is copied only because a pattern selects a file below it gets the mode of the source.
func (c *copier) dir(p string, f tree.Selected, at tree.Entry, exists bool) error {
	l, err := c.overrides.attrsOf(c.from, f.Entry)
	if err != nil {
		return err
	}
	switch {
	case !exists:
		return c.stage.mkdir(p, l)
	case !at.IsDir():
		return fmt.Errorf("%s is not a directory: a directory cannot replace it", p)
	case f.Rel == "":
		c.stage.times[p] = *l.mtime
		return nil
	case f.Implied:
		return c.stage.chmod(p, f.Entry.Mode&0o7777)
	}
	return c.stage.setDirAttrs(p, l)
}

// regular copies a regular file, or makes a hard link if this match has copied the file under another name.
func (c *copier) regular(p string, e tree.Entry, l attrs, links map[tree.FileID]string) error {
	if id, ok := e.HardLinked(); ok {
		if first, ok := links[id]; ok {
			if m := c.stage.upper[first]; m != nil && !m.whiteout {
				return c.stage.link(p, first)
			}
		}
		links[id] = p
	}
	f, err := c.stage.create(p, l)
	if err != nil {
		return err
	}
	c.content.Go(func() error {
		defer f.Close()
		if err := c.filler.fill(f, c.from, e); err != nil {
			return err
		}
		return setFd(int(f.Fd()), p, l)
	})
	return nil
}

// timeOf returns the time of an action, nil if it has none.
func timeOf(nanoseconds int64) *time.Time {
	if nanoseconds == -1 {
		return nil
	}
	t := time.Unix(0, nanoseconds)
	return &t
}
