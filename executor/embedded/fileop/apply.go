// Package fileop executes LLB's file operations: it makes the layer in which copies, directories, files, links and
// removals on a tree result, without mounting anything.
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

// Request is one file operation.
type Request struct {
	Op     *pb.FileOp
	Inputs []tree.FS // the trees that copies read from, by op input
	Parent tree.FS   // the tree that the actions change
	// Upper is an empty directory of nobody else. It becomes the layer in directory form: overlayfs's conventions.
	Upper string
	// UserXattr marks opaque directories as an ordinary user's namespace needs it.
	UserXattr bool
}

// Result is what an operation did.
type Result struct {
	// Lookups are all questions that were asked of Parent, with their answers: on another tree that gives the same
	// answers the operation results in the same layer.
	Lookups []Lookup
	Changed bool // Upper holds something
}

// Error says which action of an operation could not be done.
type Error struct {
	Action string // such as "copy /src"
	Err    error
}

func (e *Error) Error() string { return e.Action + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Apply runs the actions one after the other. After an error Upper holds a part and is to be deleted. A *layerfs.PackedError
// says that the content of a packed layer is needed.
func Apply(ctx context.Context, r Request) (Result, error) {
	parent := newRecorder(r.Parent)
	s, err := newStage(parent, r.Upper, r.UserXattr)
	if err != nil {
		return Result{}, fmt.Errorf("open the layer: %w", err)
	}
	defer s.close()
	for _, a := range r.Op.GetActions() {
		what, err := act(ctx, s, r.Inputs, a)
		if err != nil {
			return Result{}, &Error{Action: what, Err: err}
		}
	}
	if err := s.finish(); err != nil {
		return Result{}, err
	}
	return Result{Lookups: parent.lookups(), Changed: s.changed}, nil
}

// act runs one action and says what it was.
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
	return "file action", errors.New("it is of no known kind")
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
	look := attrs{mode: uint32(a.GetMode()) & 0o777, owner: o.orRoot(), mtime: timeOf(a.GetTimestamp())}
	if a.GetMakeParents() {
		return s.mkdirAll(p, look)
	}
	if _, err := s.Lookup(p); err == nil {
		return nil
	}
	return s.mkdir(p, look)
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
	look := attrs{mode: uint32(a.GetMode()) & 0o777, owner: o.orRoot(), mtime: timeOf(a.GetTimestamp())}
	return s.file(p, look, strings.NewReader(string(a.GetData())))
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
		return fmt.Errorf("%s is there already", p)
	}
	return s.symlink(p, a.GetOldpath(), attrs{owner: o.orRoot(), mtime: timeOf(a.GetTimestamp())})
}

func remove(s *stage, a *pb.FileActionRm) error {
	src := path.Clean("/" + a.GetPath())
	if src == "/" {
		return errors.New("the root cannot be removed")
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
