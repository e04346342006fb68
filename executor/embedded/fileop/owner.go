package fileop

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// maxPasswd is the maximum size of /etc/passwd and /etc/group, in bytes.
const maxPasswd = 10 << 20

// owner is the owner that an action gives to files. A nil *owner keeps the owner of the source.
type owner struct{ uid, gid uint32 }

// ownerOf returns the ids of an action's owner. It looks up names in the passwd and group files of the tree.
func ownerOf(s *stage, c *pb.ChownOpt) (*owner, error) {
	if c == nil {
		return nil, nil
	}
	var o owner
	uid, gid, err := userID(s, c.GetUser())
	if err != nil {
		return nil, err
	}
	o.uid, o.gid = uid, gid
	switch g := c.GetGroup(); {
	case g == nil:
	case g.GetByName() != nil:
		if o.gid, err = groupID(s, g.GetByName(), o.gid); err != nil {
			return nil, err
		}
	default:
		o.gid = g.GetByID()
	}
	return &o, nil
}

// userID returns the ids of a user and its group. As in BuildKit, a name that is not in the file, or has no file, is 0;
// on scratch, a name is an error.
func userID(s *stage, u *pb.UserOpt) (uid, gid uint32, err error) {
	if u == nil {
		return 0, 0, nil
	}
	named := u.GetByName()
	if named == nil {
		return u.GetByID(), u.GetByID(), nil
	}
	raw, err := accountFile(s, named, "user", "/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	users, err := user.ParsePasswdFilter(bytes.NewReader(raw), func(u user.User) bool {
		return u.Name == named.GetName()
	})
	if err != nil {
		return 0, 0, err
	}
	if len(users) == 0 {
		s.unknownName("user", named.GetName(), raw)
		return 0, 0, nil
	}
	return uint32(users[0].Uid), uint32(users[0].Gid), nil
}

// accountFile returns the content of the file that lists the name, nil if the file is missing.
func accountFile(s *stage, n *pb.NamedUserOpt, kind, file string) ([]byte, error) {
	if n.GetInput() == int64(pb.Empty) {
		return nil, fmt.Errorf("unknown %s %q: there is no %s; use a numeric id", kind, n.GetName(), file)
	}
	raw, err := s.content(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return raw, err
}

func groupID(s *stage, n *pb.NamedUserOpt, fallback uint32) (uint32, error) {
	raw, err := accountFile(s, n, "group", "/etc/group")
	if err != nil {
		return 0, err
	}
	groups, err := user.ParseGroupFilter(bytes.NewReader(raw), func(g user.Group) bool { return g.Name == n.GetName() })
	if err != nil {
		return fallback, err
	}
	if len(groups) == 0 {
		s.unknownName("group", n.GetName(), raw)
		return fallback, nil
	}
	return uint32(groups[0].Gid), nil
}

// UnknownName is a name of an owner that an account file lacks.
type UnknownName struct {
	Kind string // user or group
	Name string
	// Known are the first names in the file, at most maxKnown.
	Known []string
}

const maxKnown = 20

// unknownName records a name that the file with the content raw lacks, once.
func (s *stage) unknownName(kind, name string, raw []byte) {
	if slices.ContainsFunc(s.unknown, func(u UnknownName) bool { return u.Kind == kind && u.Name == name }) {
		return
	}
	s.unknown = append(s.unknown, UnknownName{Kind: kind, Name: name, Known: Names(raw)})
}

// Names returns the first names in a passwd or group file, at most maxKnown.
func Names(raw []byte) []string {
	var known []string
	for line := range bytes.Lines(raw) {
		name, _, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		if ok && name != "" && name[0] != '#' && len(known) < maxKnown {
			known = append(known, name)
		}
	}
	return known
}

// UnknownIn returns the unknown names that an operation recorded with its lookups.
func UnknownIn(lookups []Lookup) []UnknownName {
	var all []UnknownName
	for _, l := range lookups {
		rest, ok := strings.CutPrefix(l.Path, kindUnknown)
		if !ok {
			continue
		}
		u := UnknownName{}
		u.Kind, u.Name, _ = strings.Cut(rest, " ")
		if l.Answer != "" {
			u.Known = strings.Split(l.Answer, ":")
		}
		all = append(all, u)
	}
	return all
}

// HasNames reports whether an operation names an owner that is looked up in its parent.
func HasNames(op *pb.FileOp) bool {
	return slices.ContainsFunc(op.GetActions(), func(a *pb.FileAction) bool {
		o := ownerIn(a)
		return o.GetUser().GetByName() != nil || o.GetGroup().GetByName() != nil
	})
}

// UnknownOwners returns the owners of an operation that a parent does not have, without running the operation.
func UnknownOwners(op *pb.FileOp, parent tree.FS) ([]UnknownName, error) {
	s := &stage{parent: newRecorder(parent), upper: map[string]*upperEntry{}}
	root, err := parent.Lookup("/")
	if err != nil {
		return nil, err
	}
	s.upper["/"] = &upperEntry{entry: root}
	for _, a := range op.GetActions() {
		if _, err := ownerOf(s, ownerIn(a)); err != nil {
			return nil, err
		}
	}
	return s.unknown, nil
}

func ownerIn(a *pb.FileAction) *pb.ChownOpt {
	switch {
	case a.GetCopy() != nil:
		return a.GetCopy().GetOwner()
	case a.GetMkdir() != nil:
		return a.GetMkdir().GetOwner()
	case a.GetMkfile() != nil:
		return a.GetMkfile().GetOwner()
	}
	return a.GetSymlink().GetOwner()
}
