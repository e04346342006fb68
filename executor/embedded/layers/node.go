package layers

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
)

// maxLinks is the number of symbolic links that one lookup follows at most, as in Linux.
const maxLinks = 40

// node is one path of the layer that is being read. The tree of nodes mirrors the files on disk exactly; see applier.
type node struct {
	parent   *node
	name     string
	children map[string]*node // of a directory
	ino      *inode
	whiteout bool // hides the lower path; ino is nil
	opaque   bool // a directory that hides the lower one
	length   int  // bytes of the path; 0 for the root
	implied  bool // a directory without an entry of its own: its attributes come from the layers below
}

func (n *node) isDir() bool { return n.ino != nil && n.ino.isDir() }

func (n *node) path() string {
	if n.parent == nil {
		return "/"
	}
	b := make([]byte, n.length)
	for end := len(b); n.parent != nil; n = n.parent {
		end -= copy(b[end-len(n.name):], n.name) + 1
		b[end] = '/'
	}
	return string(b)
}

// hidden reports whether this layer hides the lower layers at n's path.
func (n *node) hidden() bool {
	for ; n != nil; n = n.parent {
		if n.opaque || n.whiteout {
			return true
		}
	}
	return false
}

func (n *node) attach(c *node) {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	c.parent = n
	c.length = n.length + 1 + len(c.name)
	n.children[c.name] = c
}

var (
	errTooManyLinks = errors.New("too many levels of symbolic links")
	errTooLong      = fmt.Errorf("path with links resolved: %w", syscall.ENAMETOOLONG)
)

// resolve splits the directory p into the nearest existing directory of this layer and the names missing below it. It
// follows symbolic links of this layer, which never lead out of the root. It does not follow links of other layers;
// neither does containerd, which unpacks each overlayfs layer alone.
//
// resolve does not use tree.Resolve, since a hostile tar needs stricter rules. Its cost is linear in the length of the
// path: tree.Resolve looks up every prefix from the root, which is quadratic for deep paths. It follows at most 40
// links, bounds the remaining path, and rejects a file in the place of a directory, even before "..".
func (root *node) resolve(p string) (dir *node, missing []string, err error) {
	todo := strings.Split(strings.Trim(p, "/"), "/")
	dir = root
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(missing) > 0 {
				missing = missing[:len(missing)-1]
			} else if dir.parent != nil {
				dir = dir.parent
			}
			continue
		}
		var c *node
		if len(missing) == 0 {
			c = dir.children[name]
		}
		switch {
		case c == nil || c.whiteout:
			missing = append(missing, name)
		case c.isDir():
			dir = c
		case c.ino.link != "":
			if links++; links > maxLinks {
				return nil, nil, errTooManyLinks
			}
			if path.IsAbs(c.ino.link) {
				dir, missing = root, nil
			}
			todo = append(strings.Split(c.ino.link, "/"), todo...)
			if len(todo) > maxPath {
				return nil, nil, errTooLong
			}
		default:
			return nil, nil, fmt.Errorf("%s is not a directory", c.path())
		}
	}
	length := dir.length
	for _, m := range missing {
		length += 1 + len(m)
	}
	if length > maxPath {
		return nil, nil, errTooLong
	}
	return dir, missing, nil
}
