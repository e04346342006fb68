package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// copier runs one copy action. Names are made one after the other by the caller's goroutine; contents are written by a few
// more.
type copier struct {
	ctx     context.Context
	stage   *stage
	from    tree.FS
	look    look
	replace bool // what is in the way goes, of whatever kind
	content *errgroup.Group
	filler  filler
}

func doCopy(ctx context.Context, s *stage, from tree.FS, a *pb.FileActionCopy) error {
	l, err := newLook(s, a)
	if err != nil {
		return err
	}
	matches, err := tree.Select(ctx, from, keys.SelectionOf(a))
	if err != nil {
		return err
	}
	c := &copier{stage: s, from: from, look: l, replace: a.GetAlwaysReplaceExistingDestPaths()}
	c.content, c.ctx = errgroup.WithContext(ctx)
	c.filler.ctx = c.ctx
	c.content.SetLimit(runtime.GOMAXPROCS(0) + 1)
	err = c.matches(matches, a)
	if werr := c.content.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr
	}
	return err
}

// matches copies what the source names, one match after the other.
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

// checkDest makes sure that the folder of a destination is there which may not be made.
func (c *copier) checkDest(a *pb.FileActionCopy) error {
	if a.GetCreateDestPath() {
		return nil
	}
	p, err := tree.Resolve(c.stage, a.GetDest(), true)
	if err != nil {
		return err
	}
	if _, err := c.stage.Lookup(path.Dir(p)); err != nil {
		return fmt.Errorf("folder of the destination %s: %w", a.GetDest(), err)
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
	for _, file := range m.Files {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if err := c.file(path.Join(dest, file.Rel), file, links); err != nil {
			return err
		}
	}
	return nil
}

// dest makes the folder of a destination, or all of one that ends in a slash, and follows its links.
func (c *copier) dest(dest string) (string, error) {
	folder := dest
	if !strings.HasSuffix(dest, "/") && path.Base(dest) != "." {
		folder = path.Dir(dest)
	}
	folder, err := tree.Resolve(c.stage, folder, true)
	if err != nil {
		return "", err
	}
	if err := c.stage.mkdirAll(folder, c.look.made()); err != nil {
		return "", err
	}
	return tree.Resolve(c.stage, path.Clean("/"+dest), true)
}

// target is where a match goes: to the destination, or into it. The folder that holds it is made.
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
	folder := path.Dir(dest)
	if contents && isDir && !exists {
		folder = dest
	}
	return dest, c.stage.mkdirAll(folder, c.look.made())
}

// file copies one selected file to p. links tells where the hard-linked files of this match went.
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
	l, err := c.look.of(c.from, f.Entry)
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

// dir copies a directory itself. The root of a match that is there already keeps how it looks; one that no pattern
// selects but something below takes its mode alone.
func (c *copier) dir(p string, f tree.Selected, at tree.Entry, exists bool) error {
	l, err := c.look.of(c.from, f.Entry)
	if err != nil {
		return err
	}
	switch {
	case !exists:
		return c.stage.mkdir(p, l)
	case !at.IsDir():
		return fmt.Errorf("%s is no directory, a directory cannot take its place", p)
	case f.Rel == "":
		c.stage.times[p] = *l.mtime
		return nil
	case f.Implied:
		return c.stage.chmod(p, f.Entry.Mode&0o7777)
	}
	return c.stage.relook(p, l)
}

// regular copies a regular file, or links it to one that this match has copied.
func (c *copier) regular(p string, e tree.Entry, l attrs, links map[tree.FileID]string) error {
	if id, ok := e.HardLinked(); ok {
		if first, ok := links[id]; ok {
			if m := c.stage.made[first]; m != nil && !m.gone {
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

// timeOf is an action's time; nil when it has none.
func timeOf(nanoseconds int64) *time.Time {
	if nanoseconds == -1 {
		return nil
	}
	t := time.Unix(0, nanoseconds)
	return &t
}
