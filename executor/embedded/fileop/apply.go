// Package fileop executes LLB file operations. It writes the layer that results from copies, new directories, files
// and links, and removals in a tree. It mounts nothing.
package fileop

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
	"github.com/bakebuild/bake/executor/tree"
)

// Request describes one file operation.
type Request struct {
	Op     *pb.FileOp
	Inputs []tree.FS // the trees that copies read from, by op input
	Parent tree.FS   // the tree that the actions change
	// Upper is an empty directory to which nothing else writes. It becomes the layer, encoded for overlayfs.
	Upper string
	// UserXattr selects the attribute user.overlay.opaque, for a user namespace.
	UserXattr bool
	// Link makes new directories as on scratch: they inherit nothing from directories of the parent.
	Link bool
}

// Result is the result of an operation.
type Result struct {
	// Lookups are all lookups in Parent with their answers. On a tree that gives the same answers, the operation
	// results in the same layer; see Recheck.
	Lookups []Lookup
	Changed bool // Upper is not empty
	// Unknown are the users and groups of owners that the parent does not have. Their files belong to root, or to the
	// user's group.
	Unknown []UnknownName
}

// Error reports the action of an operation that failed.
type Error struct {
	Action string // such as "copy /src"
	Err    error
}

func (e *Error) Error() string { return e.Action + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Apply runs the actions in order. After an error, Upper holds a part of the layer, and the caller must delete it. A
// *layerfs.PackedError means that the caller must unpack a layer and call Apply again.
func Apply(ctx context.Context, r Request) (Result, error) {
	parent := newRecorder(r.Parent)
	s, err := newStage(parent, r)
	if err != nil {
		return Result{}, fmt.Errorf("open the layer: %w", err)
	}
	defer s.close()
	for _, a := range r.Op.GetActions() {
		name, err := act(ctx, s, r.Inputs, a)
		if err != nil {
			return Result{}, &Error{Action: name, Err: err}
		}
	}
	if err := s.finish(); err != nil {
		return Result{}, err
	}
	for _, u := range s.unknown {
		parent.note(kindUnknown, u.Kind+" "+u.Name, strings.Join(u.Known, ":"))
	}
	return Result{Lookups: parent.lookups(), Changed: s.changed, Unknown: s.unknown}, nil
}

// act runs one action and returns its name for an Error.
func act(ctx context.Context, s *stage, inputs []tree.FS, a *pb.FileAction) (string, error) {
	switch {
	case a.GetCopy() != nil:
		c := a.GetCopy()
		from := tree.FS(layerfs.NewView(nil))
		if in := a.GetSecondaryInput(); in >= 0 && in < int64(len(inputs)) {
			from = inputs[in]
		}
		return "copy " + c.GetSrc(), doCopy(ctx, s, from, c)
	case a.GetMkdir() != nil:
		return "make directory " + a.GetMkdir().GetPath(), mkdir(s, a.GetMkdir())
	case a.GetMkfile() != nil:
		return "make file " + a.GetMkfile().GetPath(), mkfile(s, a.GetMkfile())
	case a.GetSymlink() != nil:
		return "make link " + a.GetSymlink().GetNewpath(), symlink(s, a.GetSymlink())
	case a.GetRm() != nil:
		return "remove " + a.GetRm().GetPath(), remove(s, a.GetRm())
	}
	return "file action", errors.New("unknown kind of action")
}

func mkdir(s *stage, a *pb.FileActionMkDir) error {
	o, err := ownerOf(s, a.GetOwner())
	if err != nil {
		return err
	}
	p, err := tree.Resolve(s, a.GetPath(), true)
	if err != nil {
		return err
	}
	attr := attrs{mode: uint32(a.GetMode()) & 0o777, owner: o, mtime: timeOf(a.GetTimestamp()), inherit: true}
	if a.GetMakeParents() {
		return s.mkdirAll(p, attr)
	}
	if _, err := s.Lookup(p); err == nil {
		return nil
	}
	return s.mkdir(p, attr)
}

func mkfile(s *stage, a *pb.FileActionMkFile) error {
	o, err := ownerOf(s, a.GetOwner())
	if err != nil {
		return err
	}
	p, err := tree.Resolve(s, a.GetPath(), true)
	if err != nil {
		return err
	}
	if err := s.clear(p); err != nil {
		return err
	}
	attr := attrs{mode: uint32(a.GetMode()) & 0o777, owner: o, mtime: timeOf(a.GetTimestamp())}
	return s.file(p, attr, strings.NewReader(string(a.GetData())))
}

func symlink(s *stage, a *pb.FileActionSymlink) error {
	o, err := ownerOf(s, a.GetOwner())
	if err != nil {
		return err
	}
	p, err := tree.Resolve(s, a.GetNewpath(), true)
	if err != nil {
		return err
	}
	if _, err := s.Lookup(p); err == nil {
		return fmt.Errorf("%s already exists", p)
	}
	return s.symlink(p, a.GetOldpath(), attrs{owner: o, mtime: timeOf(a.GetTimestamp())})
}

func remove(s *stage, a *pb.FileActionRm) error {
	src := path.Clean("/" + a.GetPath())
	if src == "/" {
		return errors.New("cannot remove the root directory")
	}
	paths := []string{src}
	if a.GetAllowWildcard() {
		var err error
		if paths, err = tree.Glob(s, src); err != nil {
			return err
		}
	}
	for _, p := range paths {
		at, err := tree.Resolve(s, p, false)
		if err != nil {
			return err
		}
		if _, err := s.Lookup(at); err != nil {
			if a.GetAllowNotFound() {
				continue
			}
			return &tree.NotFoundError{Path: p}
		}
		if err := s.remove(at); err != nil {
			return err
		}
	}
	return nil
}
