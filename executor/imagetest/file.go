package imagetest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/planner"
)

// CheckFile compares a file of an image with its test. A difference is an *Error; any other error is about reading.
func CheckFile(t *planner.Test, files Files) error {
	var d differences
	f, err := files.Stat(t.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !t.Absent {
			d.add(t.File, "it to exist", "no such file")
		}
		return d.err()
	case err != nil:
		return fmt.Errorf("%s: %w", t.File, err)
	case t.Absent:
		d.add(t.File, "no such file", kindOf(f.Mode))
		return d.err()
	}
	d.mode(t, f)
	if err := d.owner(t, f, files); err != nil {
		return err
	}
	if err := d.content(t, f, files); err != nil {
		return fmt.Errorf("%s: %w", t.File, err)
	}
	return d.err()
}

// kindOf returns the type of a file for a message.
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "a file"
	}
	return "a special file"
}

// mode compares the permissions, octal or symbolic, and who may execute the file.
func (d *differences) mode(t *planner.Test, f File) {
	bits := f.Mode & 0o7777
	if t.Mode != "" {
		got := fmt.Sprintf("%04o", bits)
		want, err := strconv.ParseUint(t.Mode, 8, 12)
		same := err == nil && uint32(want) == bits
		if err != nil {
			got = symbolic(f.Mode)
			same = t.Mode == got
		}
		if !same {
			d.add("mode", t.Mode, got)
		}
	}
	by := map[string]uint32{"owner": 0o100, "group": 0o010, "other": 0o001, "any": 0o111}
	if t.ExecutableBy != "" && bits&by[t.ExecutableBy] == 0 {
		d.add("mode", "executable by "+t.ExecutableBy, fmt.Sprintf("%04o", bits))
	}
}

// symbolic returns a mode as ls shows it.
func symbolic(mode uint32) string {
	text := []byte("-rwxrwxrwx")
	if mode&unix.S_IFMT == unix.S_IFDIR {
		text[0] = 'd'
	}
	for i := range 9 {
		if mode&(0o400>>i) == 0 {
			text[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		switch {
		case mode&s.bit == 0:
		case text[s.at] == 'x':
			text[s.at] = s.letter
		default:
			text[s.at] = s.letter - 'a' + 'A'
		}
	}
	return string(text)
}

// owner compares user and group. Names are resolved by the passwd and group files of the image.
func (d *differences) owner(t *planner.Test, f File, files Files) error {
	if t.Owner == "" {
		return nil
	}
	passwd, err := optional(files, "/etc/passwd")
	if err != nil {
		return err
	}
	group, err := optional(files, "/etc/group")
	if err != nil {
		return err
	}
	name, groupName, _ := strings.Cut(t.Owner, ":")
	if name != "" {
		found, err := user.GetExecUser(name, nil, strings.NewReader(passwd), strings.NewReader(group))
		switch {
		case err != nil:
			d.add("owner", t.Owner, fmt.Sprintf("%d, and the image has no user %s", f.UID, name))
		case uint32(found.Uid) != f.UID:
			d.add("owner", name, strconv.FormatUint(uint64(f.UID), 10))
		}
	}
	if groupName != "" {
		found, err := user.GetExecUser("0:"+groupName, nil, strings.NewReader(passwd), strings.NewReader(group))
		switch {
		case err != nil:
			d.add("group", groupName, fmt.Sprintf("%d, and the image has no group %s", f.GID, groupName))
		case uint32(found.Gid) != f.GID:
			d.add("group", groupName, strconv.FormatUint(uint64(f.GID), 10))
		}
	}
	return nil
}

// optional reads a small file, "" for a missing one.
func optional(files Files, path string) (string, error) {
	text, err := readFile(files, path, 10<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return text, err
}

func readFile(files Files, path string, limit int64) (string, error) {
	r, err := files.Open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return string(raw), err
}

// content compares the content of a regular file.
func (d *differences) content(t *planner.Test, f File, files Files) error {
	if t.Content.Empty() {
		return nil
	}
	if f.Mode&unix.S_IFMT != unix.S_IFREG {
		d.add("content", "a file", kindOf(f.Mode))
		return nil
	}
	text, err := readFile(files, t.File, maxFile)
	if err != nil {
		return err
	}
	d.text("content", t.Content, text)
	return nil
}
