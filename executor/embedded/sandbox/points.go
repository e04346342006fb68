package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// wanted is a mount point of a spec, as it is written.
type wanted struct {
	path string
	dir  bool
}

// wantedPoints are the mount points of a spec, sorted.
func wantedPoints(s *Spec) ([]wanted, error) {
	all := []wanted{
		{"/dev", true}, {"/etc/hosts", false}, {"/etc/resolv.conf", false}, {"/proc", true}, {"/sys", true},
	}
	for _, m := range s.Mounts {
		isDir := m.Kind == OverlayMount || m.Kind == Tmpfs
		if m.Kind == Bind {
			info, err := os.Stat(m.Source)
			if err != nil {
				return nil, fmt.Errorf("mount %s: %w", m.Dest, err)
			}
			isDir = info.IsDir()
		}
		all = append(all, wanted{path.Clean("/" + m.Dest), isDir})
	}
	slices.SortFunc(all, func(a, b wanted) int { return strings.Compare(a.path, b.path) })
	return slices.Compact(all), nil
}

// pointsLayer returns a directory below dir that holds the mount points and nothing else. Steps that want the same share
// it; it is made under another name and renamed, so that it is always whole.
func pointsLayer(dir string, all []wanted) (string, error) {
	h := sha256.New()
	for _, w := range all {
		fmt.Fprintf(h, "%q %v\n", w.path, w.dir)
	}
	final := filepath.Join(dir, hex.EncodeToString(h.Sum(nil)[:16]))
	if _, err := os.Lstat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return "", err
	}
	if err := makePoints(fresh, all); err != nil {
		return "", errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(fresh, final); err != nil {
		if _, there := os.Lstat(final); there == nil {
			return final, os.RemoveAll(fresh)
		}
		return "", errors.Join(err, os.RemoveAll(fresh))
	}
	return final, nil
}

// makePoints makes the points in a new directory. What stands in another's way is left out: the step makes it, or says
// what is wrong with it.
func makePoints(root string, all []wanted) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, w := range all {
		rel := strings.TrimPrefix(w.path, "/")
		if rel == "" {
			continue
		}
		above := rel
		if !w.dir {
			above = path.Dir(rel)
		}
		if err := r.MkdirAll(above, 0o755); err != nil {
			continue
		}
		if w.dir {
			continue
		}
		f, err := r.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return os.Chmod(root, 0o755)
}

// cleanUpper takes away the mount points that were made in a step's own layer, unless the step put something there, and
// gives the directories above them their times back.
func cleanUpper(upper string, created []point) error {
	if len(created) == 0 {
		return nil
	}
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range slices.Backward(created) {
		if p.Owned {
			continue
		}
		rel := strings.TrimPrefix(p.Path, "/")
		info, err := root.Lstat(rel)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("take away mount point %s: %w", p.Path, err)
		}
		if info.IsDir() != p.Dir || !p.Dir && (!info.Mode().IsRegular() || info.Size() > 0) {
			continue
		}
		if err := root.Remove(rel); errors.Is(err, unix.ENOTEMPTY) {
			continue
		} else if err != nil {
			return fmt.Errorf("take away mount point %s: %w", p.Path, err)
		}
		at := time.Unix(p.Sec, p.Nsec)
		if err := root.Chtimes(path.Dir(rel), at, at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
