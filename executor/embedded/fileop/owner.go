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
	u := UnknownName{Kind: kind, Name: name}
	for line := range bytes.Lines(raw) {
		known, _, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		if ok && known != "" && known[0] != '#' && len(u.Known) < maxKnown {
			u.Known = append(u.Known, known)
		}
	}
	s.unknown = append(s.unknown, u)
}
