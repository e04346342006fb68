package embedded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/moby/sys/user"

	"github.com/bakebuild/bake/executor/tree"
)

// maxUserFile bounds /etc/passwd and /etc/group, in bytes.
const maxUserFile = 10 << 20

// identity is the user that a step runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string // from passwd, or "/"
}

// resolveUser resolves the user of a step, as written in USER and --user, in the passwd and group files of its root.
// The empty name is root, even without a passwd file.
func resolveUser(files tree.FS, name string) (who identity, err error) {
	passwd, err := openUserFile(files, "/etc/passwd")
	if err != nil {
		return who, err
	}
	group, err := openUserFile(files, "/etc/group")
	if err != nil {
		return who, errors.Join(err, closeFile(passwd))
	}
	defer closeFile(passwd)
	defer closeFile(group)
	if name == "" {
		name = "0"
	}
	found, err := user.GetExecUser(name, &user.ExecUser{Home: "/"}, reader(passwd), reader(group))
	if err != nil {
		return who, unknownUserError(files, name, err)
	}
	if found.Uid < 0 || found.Uid > math.MaxUint32-1 || found.Gid < 0 || found.Gid > math.MaxUint32-1 {
		return who, fmt.Errorf("ids %d:%d are out of range", found.Uid, found.Gid)
	}
	who = identity{uid: uint32(found.Uid), gid: uint32(found.Gid), home: found.Home}
	for _, g := range found.Sgids {
		who.groups = append(who.groups, uint32(g))
	}
	if !slices.Contains(who.groups, who.gid) { // as in BuildKit, the group itself is one of them
		who.groups = append(who.groups, who.gid)
	}
	return who, nil
}

// openUserFile opens a regular file of bounded size and follows links inside the tree; nil if it does not exist.
func openUserFile(files tree.FS, name string) (io.ReadCloser, error) {
	at, err := tree.Resolve(files, name, true)
	if err != nil {
		return nil, err
	}
	e, err := files.Lookup(at)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !e.IsRegular() || e.Size > maxUserFile {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", name, maxUserFile)
	}
	f, err := files.Open(at)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// reader returns a nil io.Reader for a missing file, as user.GetExecUser requires.
func reader(f io.ReadCloser) io.Reader {
	if f == nil {
		return nil
	}
	return io.LimitReader(f, maxUserFile)
}

func closeFile(f io.ReadCloser) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
