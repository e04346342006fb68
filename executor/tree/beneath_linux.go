package tree

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenBeneath opens a path below root. Neither the path nor a link in it can lead out.
func OpenBeneath(root *os.File, p string, flags int) (int, error) {
	rel := strings.TrimPrefix(p, "/")
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), rel, &how)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
			// A link or a file stands where the path needs a directory: below it there is nothing.
			return -1, &fs.PathError{Op: "open", Path: p, Err: unix.ENOENT}
		case err != nil:
			return -1, &fs.PathError{Op: "open", Path: p, Err: err}
		}
		return fd, nil
	}
}

// OpenFileBeneath opens the regular file at a path below root for reading.
func OpenFileBeneath(root *os.File, p string) (*os.File, error) {
	// O_NONBLOCK: a FIFO that stands there is refused below, not waited for.
	fd, err := OpenBeneath(root, p, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: p, Err: errors.Join(errNotRegular, err)}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// ReadlinkAt returns the target of the link name in the directory fd, or of fd itself where name is empty.
func ReadlinkAt(fd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
