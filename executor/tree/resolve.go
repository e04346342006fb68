package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// maxLinks bounds how many symbolic links one resolution follows, as the kernel does.
const maxLinks = 255

// ErrLoop is wrapped when a path leads through too many symbolic links.
var ErrLoop = errors.New("too many symbolic links")

// Rooted returns p as a clean path from the root. It does not allocate if p is such a path.
func Rooted(p string) string {
	if strings.HasPrefix(p, "/") {
		return path.Clean(p)
	}
	return path.Clean("/" + p)
}

// Name returns the last component of the path.
func (e Entry) Name() string { return path.Base(e.Path) }

// Lookuper is the part of an FS that a resolution needs.
type Lookuper interface {
	Lookup(path string) (Entry, error)
}

// Resolve follows the symbolic links of a path inside the tree and returns the absolute path without any; the last
// component is followed only with followLast. ".." at the root stays there. A component that
// does not exist stays as it is written, so that the target of a dangling link can be created.
func Resolve(f Lookuper, name string, followLast bool) (string, error) {
	rest := strings.Split(name, "/")
	at, links := "/", 0
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, c)
		if !followLast && onlyDots(rest) {
			return next, nil
		}
		e, err := f.Lookup(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			at = next
		case err != nil:
			return "", err
		case e.IsLink():
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s: %w", name, ErrLoop)
			}
			if strings.HasPrefix(e.Link, "/") {
				at = "/"
			}
			rest = append(strings.Split(e.Link, "/"), rest...)
		default:
			at = next
		}
	}
	return at, nil
}

// onlyDots reports whether the remaining components name nothing.
func onlyDots(rest []string) bool {
	for _, c := range rest {
		if c != "" && c != "." {
			return false
		}
	}
	return true
}
