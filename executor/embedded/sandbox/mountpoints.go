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

// Mountpoints that the root lacks.
//
// The problem: a mount needs an existing file or directory, but a root such as FROM scratch has no /proc. One created
// in the step's own layer would be part of the image.
//
// The idea: the lowest layer of the overlay holds all mountpoints of the step and nothing else. Overlayfs shows them
// where the root has nothing, and the step's layer stays clean. Steps with the same mountpoints share that layer. Where
// this does not help, because a symbolic link in the root leads to a missing path, walk creates the mountpoint in the
// step's layer, and removeMountpoints removes it after the step.
//
// The invariants: the directory of a mountpoint layer is complete from the moment it has its final name (it is
// renamed). A mountpoint is removed only if it is still empty, and a directory that overlayfs copied up for it only if
// it is equal to the one below. Otherwise a step could lose files that it wrote there, or its layer would hold
// directories that it did not change. The removal resolves paths with os.Root, because the step may have replaced a
// parent by a link (CVE-2024-23652 of the hostile tests in cmd/bake). TestLayer and TestLinks show that layers stay
// clean.

// mountpoint is a mountpoint of a spec, as an absolute path in the root. Its links are not resolved.
type mountpoint struct {
	path  string
	dir   bool
	tmpfs bool // a directory with mode 1777, which a tmpfs mount takes
}

// specMountpoints returns the mountpoints of a spec, sorted and without duplicates.
func specMountpoints(s *Spec) ([]mountpoint, error) {
	all := []mountpoint{
		{path: "/dev", dir: true}, {path: "/etc/hosts"}, {path: "/etc/resolv.conf"}, {path: "/proc", dir: true},
		{path: "/sys", dir: true},
	}
	for _, m := range s.Mounts {
		isDir := m.Kind == OverlayMount || m.Kind == Tmpfs
		if m.Kind == Bind {
			var err error
			if isDir, err = m.isDir(); err != nil {
				return nil, fmt.Errorf("mount %s: %w", m.Dest, err)
			}
		}
		all = append(all, mountpoint{path.Clean("/" + m.Dest), isDir, m.Kind == Tmpfs})
	}
	slices.SortFunc(all, func(a, b mountpoint) int { return strings.Compare(a.path, b.path) })
	return slices.Compact(all), nil
}

// mountpointLayer returns a directory below dir that holds the mountpoints and nothing else, and creates it if it is
// missing. Several processes may call it at the same time.
func mountpointLayer(dir string, all []mountpoint) (string, error) {
	h := sha256.New()
	for _, m := range all {
		fmt.Fprintf(h, "%q %v\n", m.path, m.dir)
		if m.tmpfs {
			fmt.Fprintln(h, "tmpfs")
		}
	}
	final := filepath.Join(dir, hex.EncodeToString(h.Sum(nil)[:16]))
	if hasMountpoints(final, all) {
		return final, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return "", err
	}
	if err := createMountpoints(fresh, all); err != nil {
		return "", errors.Join(err, os.RemoveAll(fresh))
	}
	err = os.Rename(fresh, final)
	if err != nil && hasMountpoints(final, all) { // another process was faster
		return final, os.RemoveAll(fresh)
	}
	if err != nil { // what is there is damaged
		err = errors.Join(os.RemoveAll(final), os.Rename(fresh, final))
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(fresh))
	}
	return final, nil
}

// hasMountpoints reports whether dir holds the mountpoints. One whose parent is another one's file never exists.
func hasMountpoints(dir string, all []mountpoint) bool {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return false
	}
	for _, m := range all {
		if _, err := os.Lstat(filepath.Join(dir, m.path)); err != nil && !errors.Is(err, unix.ENOTDIR) {
			return false
		}
	}
	return true
}

// createMountpoints creates the mountpoints in a new directory. It skips one whose parent is another one's file:
// mounting it reports the error.
func createMountpoints(root string, all []mountpoint) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, m := range all {
		rel := strings.TrimPrefix(m.path, "/")
		if rel == "" {
			continue
		}
		dir := rel
		if !m.dir {
			dir = path.Dir(rel)
		}
		if err := r.MkdirAll(dir, 0o755); err != nil {
			continue
		}
		if m.tmpfs {
			if err := r.Chmod(rel, 0o777|fs.ModeSticky); err != nil {
				return err
			}
		}
		if m.dir {
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

// removeMountpoints removes the mountpoints that were created in a step's own layer, except those that the step wrote
// to. It restores the times of their parent directories, and removes parents that are then equal to those of the layers
// below.
func removeMountpoints(upper string, created []createdMountpoint) error {
	if len(created) == 0 {
		return nil
	}
	root, err := os.OpenRoot(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	paths := map[string]bool{}
	for _, m := range created {
		paths[m.Path] = true
	}
	for _, m := range slices.Backward(created) {
		if m.Result {
			continue
		}
		if err := removeMountpoint(root, m, paths); err != nil {
			return fmt.Errorf("remove mountpoint %s: %w", m.Path, err)
		}
	}
	return nil
}

// removeMountpoint removes one mountpoint; created holds the paths of all of them.
func removeMountpoint(root *os.Root, m createdMountpoint, created map[string]bool) error {
	rel := strings.TrimPrefix(m.Path, "/")
	info, err := root.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() != m.Dir || !m.Dir && (!info.Mode().IsRegular() || info.Size() > 0) {
		return nil
	}
	if err := root.Remove(rel); errors.Is(err, unix.ENOTEMPTY) {
		return nil
	} else if err != nil {
		return err
	}
	parent := path.Dir(rel)
	if created["/"+parent] {
		return nil
	}
	before := m.Parents[len(m.Parents)-1]
	mtime := time.Unix(before.Sec, before.Nsec)
	if err := root.Chtimes(parent, mtime, mtime); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return removeCopies(root, parent, m.Parents)
}

// removeCopies removes a directory and its parents, except the root, as long as each is empty and unchanged: overlayfs
// copied it up only for the mountpoint. before holds the directories as they were, from the root to dir.
func removeCopies(root *os.Root, dir string, before []dirStat) error {
	for i := len(before) - 1; i > 0; i-- {
		unchanged, err := isCopy(root, dir, before[i])
		if err != nil || !unchanged {
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

// isCopy reports whether a directory is an unchanged copy of the one that before describes. A directory with extended
// attributes counts as changed, because they are not compared.
func isCopy(root *os.Root, dir string, before dirStat) (bool, error) {
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
	return !before.Xattrs && statDir(&st, false) == before, nil
}
