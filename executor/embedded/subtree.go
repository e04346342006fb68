package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/layerfs"
)

// subtree is one directory or file in a stack of unpacked layers, for a mount that selects it.
type subtree struct {
	// dirs are the directories, top first, whose overlay is the selected directory.
	dirs []string
	// file is the path of anything other than a directory.
	file string
}

// findSubtree finds a path in layers, top first. The path must be resolved: no component may be a link in the merged
// tree. Each component is looked up in each layer and never followed.
func findSubtree(layers []string, path string) (subtree, error) {
	var s subtree
	for _, dir := range layers {
		at, kind, err := descend(dir, path)
		if err != nil {
			return s, err
		}
		if kind == foundFile {
			if len(s.dirs) == 0 {
				s.file = at
				return s, nil
			}
			break
		}
		if at != "" && kind != foundNothing {
			s.dirs = append(s.dirs, at)
		}
		if kind == foundOpaque {
			break
		}
	}
	if len(s.dirs) == 0 {
		return s, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return s, nil
}

// found is what one layer has at a path.
type found int

const (
	foundNothing found = iota // the layers below decide
	foundDir                  // a directory, merged with those below
	foundOpaque               // nothing below shows through
	foundFile
)

// descend follows path in one layer. With foundOpaque the directory itself may be missing; at is then "".
func descend(layer, path string) (at string, kind found, err error) {
	at, kind = layer, foundDir
	names := strings.Split(strings.Trim(path, "/"), "/")
	for i, name := range names {
		if name == "" {
			continue
		}
		at = filepath.Join(at, name)
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); errors.Is(err, unix.ENOENT) {
			if kind == foundOpaque {
				return "", foundOpaque, nil
			}
			return "", foundNothing, nil
		} else if err != nil {
			return "", foundNothing, fmt.Errorf("lstat %s: %w", at, err)
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
			return "", foundOpaque, nil
		case st.Mode&unix.S_IFMT != unix.S_IFDIR && i < len(names)-1:
			return "", foundOpaque, nil // a file on the way hides the path in the layers below
		case st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return at, foundFile, nil
		case layerfs.IsOpaque(at):
			kind = foundOpaque
		}
	}
	return at, kind, nil
}
