//go:build unix && !linux

package tree

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// openPath opens a file or directory as a place only.
const openPath = unix.O_RDONLY

// OpenBeneath opens a path below root. It follows no symbolic link, neither at the end of the path nor on the way:
// each directory is opened in the one before it.
func OpenBeneath(root *os.File, p string, flags int) (int, error) {
	at := int(root.Fd())
	names := strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
	if len(names) == 0 {
		names = []string{"."}
	}
	for i, name := range names {
		how := unix.O_RDONLY | unix.O_DIRECTORY
		if i == len(names)-1 {
			how = flags
		}
		fd, err := openIn(at, name, how)
		if i > 0 {
			unix.Close(at)
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: p, Err: err}
		}
		at = fd
	}
	return at, nil
}

// openIn opens a name in the directory dir, unless it is a link.
func openIn(dir int, name string, flags int) (int, error) {
	if name == ".." {
		return -1, unix.ENOENT
	}
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EMLINK), errors.Is(err, unix.ENOTDIR):
			// The path goes through a link or a file: nothing exists below it.
			return -1, unix.ENOENT
		}
		return fd, err
	}
}
