package fileop

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/moby/buildkit/solver/pb"
	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// overrides holds the attributes that a copy sets instead of keeping those of the source.
type overrides struct {
	owner *owner     // nil keeps the owner of the source
	mode  int32      // -1 keeps the mode of the source
	set   *mode.Set  // changes to the mode of the source, such as u+x; nil for none
	mtime *time.Time // nil keeps the time of the source
}

func newOverrides(s *stage, a *pb.FileActionCopy) (overrides, error) {
	l := overrides{mode: a.GetMode(), mtime: timeOf(a.GetTimestamp())}
	var err error
	if l.owner, err = ownerOf(s, a.GetOwner()); err != nil {
		return l, err
	}
	if a.GetModeStr() == "" {
		return l, nil
	}
	set, err := mode.ParseWithUmask(a.GetModeStr(), 0)
	if err != nil {
		return l, fmt.Errorf("mode %q: %w", a.GetModeStr(), err)
	}
	l.set, l.mode = &set, -1
	return l, nil
}

// parentDir returns the attributes of a directory that is created above the destination, or as the destination.
func (l overrides) parentDir() attrs {
	a := attrs{mode: 0o755, owner: l.owner, mtime: l.mtime, inherit: true}
	if l.mode >= 0 {
		a.mode = uint32(l.mode) & 0o777
	}
	return a
}

// attrsOf returns the attributes of the copy of an entry.
func (l overrides) attrsOf(from tree.FS, e tree.Entry) (attrs, error) {
	a := attrs{mode: e.Mode & 0o7777, owner: l.owner, mtime: l.mtime}
	if a.owner == nil {
		a.owner = &owner{e.UID, e.GID}
	}
	if a.mtime == nil {
		a.mtime = &e.Mtime
	}
	switch {
	case e.IsLink():
		return a, nil
	case l.set != nil:
		a.mode = unixMode(l.set.Apply(goMode(e.Mode)))
	case l.mode >= 0:
		a.mode = uint32(l.mode) & 0o7777
	}
	var err error
	a.xattrs, err = from.Xattrs(e.Path)
	return a, err
}

// goMode converts st_mode bits to an fs.FileMode.
func goMode(m uint32) fs.FileMode {
	g := fs.FileMode(m & 0o777)
	if m&unix.S_IFMT == unix.S_IFDIR {
		g |= fs.ModeDir
	}
	if m&unix.S_ISUID != 0 {
		g |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		g |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		g |= fs.ModeSticky
	}
	return g
}

// unixMode converts the permission bits of an fs.FileMode to st_mode bits.
func unixMode(g fs.FileMode) uint32 {
	m := uint32(g.Perm())
	if g&fs.ModeSetuid != 0 {
		m |= unix.S_ISUID
	}
	if g&fs.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	if g&fs.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	return m
}
