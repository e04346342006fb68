package layerfs

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// keptXattrs reads the extended attributes that a copy keeps. path must name the file through an open descriptor.
func keptXattrs(path string) (map[string][]byte, error) {
	var buf [4096]byte
	list := buf[:]
	n, err := unix.Listxattr(path, list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, tree.MaxXattrs)
		n, err = unix.Listxattr(path, list)
	}
	if err != nil {
		if noXattrs(err) {
			return nil, nil
		}
		return nil, err
	}
	if n == 0 {
		return nil, nil
	}
	var kept map[string][]byte
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !tree.Kept(name) {
			continue
		}
		value := make([]byte, tree.MaxXattrs)
		n, err := unix.Getxattr(path, name, value)
		if err != nil {
			if noXattrs(err) {
				continue
			}
			return nil, err
		}
		if kept == nil {
			kept = map[string][]byte{}
		}
		kept[name] = value[:n:n]
	}
	return kept, nil
}

// noXattrs reports whether the file system or the kind of file has no such attributes, or the attribute was removed.
func noXattrs(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) ||
		errors.Is(err, unix.EPERM) || errors.Is(err, unix.ELOOP)
}
