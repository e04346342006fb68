package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxLinks bounds the symbolic links of one path, as the kernel does.
const maxLinks = 255

// links resolves the symbolic links of many paths that share most of their directories.
type links struct {
	dir   string            // of relative paths
	real  map[string]string // directories by their clean path
	whole map[string]string // results of resolve, and the directories of their paths
}

func newLinks(dir string) *links {
	return &links{dir: dir, real: map[string]string{}, whole: map[string]string{}}
}

// within reports whether a path is in one of the roots, with the symbolic links of all of them resolved. A root "*"
// contains every path.
//
// Most code cleans a path before it opens it, so that "link/../x" is x. The kernel opens x in the parent of the
// directory to which the link leads. The path must be in a root in both readings.
func (l *links) within(path string, roots []string) (bool, error) {
	if slices.Contains(roots, "*") {
		return true, nil
	}
	var all []string
	for _, root := range roots {
		all = append(all, l.readings(root)...)
	}
	for _, reading := range l.readings(path) {
		ok, err := l.realWithin(reading, all)
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// isLink reports whether a path is a symbolic link itself.
func (l *links) isLink(path string) (bool, error) {
	path = Absolute(l.dir, path)
	dir, err := l.resolve(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	real, err := l.resolve(path)
	return real != filepath.Join(dir, filepath.Base(path)), err
}

// readings returns the absolute paths that a path may mean.
func (l *links) readings(path string) []string {
	all := []string{Absolute(l.dir, path)}
	if strings.Contains(path, "..") {
		if !filepath.IsAbs(path) {
			path = l.dir + "/" + path
		}
		all = append(all, path)
	}
	return all
}

func (l *links) realWithin(path string, roots []string) (bool, error) {
	real, err := l.resolve(path)
	if err != nil {
		return false, err
	}
	for _, root := range roots {
		r, err := l.resolve(root)
		if err != nil {
			return false, err
		}
		if rel, err := filepath.Rel(r, real); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return true, nil
		}
	}
	return false, nil
}

// resolve returns an absolute path without symbolic links. Components that do not exist, or whose parent is not a
// directory, are kept as written: a path need not exist yet.
func (l *links) resolve(path string) (string, error) {
	if real, ok := l.whole[path]; ok {
		return real, nil
	}
	dir, name := filepath.Split(path)
	at, ok := l.whole[dir]
	count := 0
	if !ok {
		var err error
		if at, err = l.follow("/", dir, path, &count); err != nil {
			return "", err
		}
		l.whole[dir] = at
	}
	real, err := l.follow(at, name, path, &count)
	if err == nil {
		l.whole[path] = real
	}
	return real, err
}

// follow resolves the components of rest, one after the other, from the resolved directory at. whole is the path for
// messages, count the links that were followed for it.
func (l *links) follow(at, rest, whole string, count *int) (string, error) {
	for component := range strings.SplitSeq(rest, "/") {
		switch component {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, component)
		if known, ok := l.real[next]; ok {
			at = known
			continue
		}
		target, err := os.Readlink(next)
		switch {
		case err == nil:
			if *count++; *count > maxLinks {
				return "", fmt.Errorf("resolve %s: %w", whole, syscall.ELOOP)
			}
			from := at
			if filepath.IsAbs(target) {
				from = "/"
			}
			if target, err = l.follow(from, target, whole, count); err != nil {
				return "", err
			}
			l.real[next], at = target, target
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			l.real[next], at = next, next
		default:
			return "", fmt.Errorf("resolve %s: %w", whole, err)
		}
	}
	return at, nil
}
