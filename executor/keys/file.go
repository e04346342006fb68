package keys

import (
	"fmt"
	"strconv"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/executor/tree"
)

// fileRead is one selection of files that a file op copies from an input.
type fileRead struct {
	input int
	sel   tree.Selection
	// what names the files for people, as the COPY does.
	what string
}

// fileShape holds what a file op changes and what it reads.
type fileShape struct {
	// parent is the op input that the actions change, pb.Empty for scratch.
	parent int
	reads  []fileRead
	// canonical holds the actions without their inputs.
	canonical Parts
}

// shapeOf checks a file op and takes it apart. All actions must be one chain on one parent, with one output: the
// Dockerfile frontend makes nothing else.
func shapeOf(op *pb.Op) (fileShape, error) {
	actions := op.GetFile().GetActions()
	if len(actions) == 0 {
		return fileShape{}, fmt.Errorf("the file operation has no actions")
	}
	n := int64(len(op.GetInputs()))
	shape := fileShape{parent: int(actions[0].GetInput()), canonical: NewParts("file")}
	if shape.parent < int(pb.Empty) || int64(shape.parent) >= n {
		return fileShape{}, fmt.Errorf("a file action names input %d of %d", shape.parent, n)
	}
	for i, a := range actions {
		last := i == len(actions)-1
		if i > 0 && a.GetInput() != n+int64(i)-1 || (a.GetOutput() == 0) != last {
			return fileShape{}, fmt.Errorf("a file operation with several parents or outputs cannot be executed")
		}
		if c := a.GetCopy(); c != nil {
			in := a.GetSecondaryInput()
			if in < int64(pb.Empty) || in >= n {
				return fileShape{}, fmt.Errorf("a copy names input %d of %d", in, n)
			}
			shape.reads = append(shape.reads, fileRead{input: int(in), sel: SelectionOf(c), what: c.GetSrc()})
		}
		body, err := shape.canonicalAction(a)
		if err != nil {
			return fileShape{}, err
		}
		shape.canonical.Hash(PartAction+strconv.Itoa(i+1)+" "+actionName(a), body, "")
	}
	return shape, nil
}

// canonicalAction returns an action's bytes without the indices of its inputs, and without what only says which files
// a copy reads. The content digest of the selection covers what lands at the destination, so equal files from two
// places give one key, one layer, and one run of the commands above it. The invariant: a copy with equal canonical
// bytes and an equal digest of its selection writes equal files on equal parents. TestCopyFromAnotherPlace shows it.
func (s *fileShape) canonicalAction(a *pb.FileAction) ([]byte, error) {
	c := a.CloneVT()
	c.Input, c.SecondaryInput, c.Output = 0, 0, 0
	if read := c.GetCopy(); read != nil {
		read.Src, read.FollowSymlink, read.AllowWildcard, read.AllowEmptyWildcard = "", false, false, false
		read.IncludePatterns, read.ExcludePatterns, read.RequiredPaths = nil, nil, nil
	}
	for _, u := range owners(c) {
		name := u.GetByName()
		if name == nil {
			continue
		}
		if in := int(name.GetInput()); in != s.parent && in != int(a.GetInput()) {
			return nil, fmt.Errorf("an owner's name is looked up in input %d, which is not the parent", in)
		}
		name.Input = 0
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode file action: %w", err)
	}
	return body, nil
}

// owners returns the user and group of an action, where it names any.
func owners(a *pb.FileAction) []*pb.UserOpt {
	var o *pb.ChownOpt
	switch {
	case a.GetCopy() != nil:
		o = a.GetCopy().GetOwner()
	case a.GetMkdir() != nil:
		o = a.GetMkdir().GetOwner()
	case a.GetMkfile() != nil:
		o = a.GetMkfile().GetOwner()
	case a.GetSymlink() != nil:
		o = a.GetSymlink().GetOwner()
	}
	return []*pb.UserOpt{o.GetUser(), o.GetGroup()}
}

// actionName returns a short form of an action for the names of key parts.
func actionName(a *pb.FileAction) string {
	switch {
	case a.GetCopy() != nil:
		return "copy to " + a.GetCopy().GetDest()
	case a.GetMkdir() != nil:
		return "mkdir " + a.GetMkdir().GetPath()
	case a.GetMkfile() != nil:
		return "mkfile " + a.GetMkfile().GetPath()
	case a.GetSymlink() != nil:
		return "symlink " + a.GetSymlink().GetNewpath()
	case a.GetRm() != nil:
		return "rm " + a.GetRm().GetPath()
	}
	return "unknown"
}

// SelectionOf returns which files a copy reads.
func SelectionOf(c *pb.FileActionCopy) tree.Selection {
	return tree.Selection{
		Src:         c.GetSrc(),
		Follow:      c.GetFollowSymlink(),
		DirContents: c.GetDirCopyContents(),
		Wildcard:    c.GetAllowWildcard(),
		AllowEmpty:  c.GetAllowEmptyWildcard(),
		Include:     c.GetIncludePatterns(),
		Exclude:     c.GetExcludePatterns(),
		Required:    c.GetRequiredPaths(),
	}
}
