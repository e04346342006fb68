package fileop

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
)

// maxPasswd bounds /etc/passwd and /etc/group, in bytes.
const maxPasswd = 10 << 20

// owner is who files of an action shall belong to; nil keeps them as they are.
type owner struct{ uid, gid uint32 }

// orRoot is who new files belong to.
func (o *owner) orRoot() owner {
	if o == nil {
		return owner{}
	}
	return *o
}

// ownerOf finds the ids of an action's owner in the tree's own passwd and group files.
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
		if o.gid, err = groupID(s, g.GetByName().GetName(), o.gid); err != nil {
			return nil, err
		}
	default:
		o.gid = g.GetByID()
	}
	return &o, nil
}

// userID finds a user and its group. A name that the file has not is 0, as in BuildKit; without a file it is an error.
func userID(s *stage, u *pb.UserOpt) (uid, gid uint32, err error) {
	if u == nil {
		return 0, 0, nil
	}
	if u.GetByName() == nil {
		return u.GetByID(), u.GetByID(), nil
	}
	name := u.GetByName().GetName()
	raw, err := s.content("/etc/passwd")
	if errors.Is(err, fs.ErrNotExist) {
		return numeric(name, "user", "/etc/passwd")
	}
	if err != nil {
		return 0, 0, err
	}
	users, err := user.ParsePasswdFilter(bytes.NewReader(raw), func(u user.User) bool { return u.Name == name })
	if err != nil || len(users) == 0 {
		return 0, 0, err
	}
	return uint32(users[0].Uid), uint32(users[0].Gid), nil
}

func numeric(name, what, file string) (uint32, uint32, error) {
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("%s %q cannot be looked up: there is no %s; name it by number", what, name, file)
	}
	return uint32(n), uint32(n), nil
}

func groupID(s *stage, name string, fallback uint32) (uint32, error) {
	raw, err := s.content("/etc/group")
	if errors.Is(err, fs.ErrNotExist) {
		gid, _, err := numeric(name, "group", "/etc/group")
		return gid, err
	}
	if err != nil {
		return 0, err
	}
	groups, err := user.ParseGroupFilter(bytes.NewReader(raw), func(g user.Group) bool { return g.Name == name })
	if err != nil || len(groups) == 0 {
		return fallback, err
	}
	return uint32(groups[0].Gid), nil
}
