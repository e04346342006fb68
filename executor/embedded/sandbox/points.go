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

// cleanUpper takes away the mount points that were made in a step's own layer, unless the step put something there. The
// directories above them get their times back, and are taken away where that leaves them as they are below the layer.
func cleanUpper(upper string, created []point) error {
	if len(created) == 0 {
		return nil
	}
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	made := map[string]bool{}
	for _, p := range created {
		made[p.Path] = true
	}
	for _, p := range slices.Backward(created) {
		if p.Owned {
			continue
		}
		if err := cleanPoint(root, p, made); err != nil {
			return fmt.Errorf("take away mount point %s: %w", p.Path, err)
		}
	}
	return nil
}

func cleanPoint(root *os.Root, p point, made map[string]bool) error {
	rel := strings.TrimPrefix(p.Path, "/")
	info, err := root.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() != p.Dir || !p.Dir && (!info.Mode().IsRegular() || info.Size() > 0) {
		return nil
	}
	if err := root.Remove(rel); errors.Is(err, unix.ENOTEMPTY) {
		return nil
	} else if err != nil {
		return err
	}
	above := path.Dir(rel)
	if made["/"+above] {
		return nil
	}
	was := p.Above[len(p.Above)-1]
	at := time.Unix(was.Sec, was.Nsec)
	if err := root.Chtimes(above, at, at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return pruneCopies(root, above, p.Above)
}

// pruneCopies removes a directory and those above it, but for the root, as long as each is empty and no different from
// what it was.
func pruneCopies(root *os.Root, dir string, was []dirStat) error {
	for i := len(was) - 1; i > 0; i-- {
		same, err := isCopy(root, dir, was[i])
		if err != nil || !same {
			return err
		}
		if err := root.Remove(dir); errors.Is(err, unix.ENOTEMPTY) {
			return nil
		} else if err != nil {
			return err
		}
		dir = path.Dir(dir)
	}
	return nil
}

func isCopy(root *os.Root, dir string, was dirStat) (bool, error) {
	f, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	names := make([]byte, 1<<16)
	n, err := unix.Flistxattr(int(f.Fd()), names)
	if err != nil {
		return false, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name != "" && !strings.HasSuffix(name, ".overlay.origin") && !strings.HasSuffix(name, ".overlay.impure") {
			return false, nil
		}
	}
	return !was.Xattrs && statDir(&st, false) == was, nil
}
