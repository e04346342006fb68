package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// devices are the nodes of /dev that every step has.
func devices() map[string]uint64 {
	return map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7),
		"random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0),
	}
}

// hostFiles are descriptors of what a root takes from the machine, opened before anything is covered.
type hostFiles struct {
	root    int   // the root's mount
	mounts  []int // of Spec.Mounts; -1 for those that come from memory
	devices map[string]int
	null    int
	sys     int // for a fall-back; -1 if it cannot be cloned
}

// buildRoot mounts everything: first the root, on a place of this stage's own, then what belongs into it.
func (s *stage) buildRoot() error {
	if err := s.openHost(); err != nil {
		return err
	}
	scratch, err := s.scratch()
	if err != nil {
		return err
	}
	at, err := unix.Openat(scratch, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return stageError("open the place of the root", err)
	}
	if err := attach(s.host.root, at); err != nil {
		return mountRefused("mount the root", err)
	}
	s.root = s.host.root
	if s.walk, err = newWalk(s.root); err != nil {
		return stageError("open the root", err)
	}
	defer func() { s.created = s.walk.created }()
	if err := s.systemMounts(scratch); err != nil {
		return err
	}
	if err := s.generated(scratch); err != nil {
		return err
	}
	for i, m := range s.cfg.Spec.Mounts {
		if err := s.mount(i, m, scratch); err != nil {
			return mountRefused("mount "+m.Dest, err)
		}
	}
	return nil
}

// openHost opens all that lies outside of the root.
func (s *stage) openHost() error {
	spec := &s.cfg.Spec
	h := &s.host
	var err error
	if h.root, err = overlayMount(spec.Root, s.cfg.Points, s.cfg.InUser); err != nil {
		return mountRefused("mount the layers", err)
	}
	for _, m := range spec.Mounts {
		fd, err := s.detached(m)
		if err != nil {
			return mountRefused("mount "+m.Dest, err)
		}
		h.mounts = append(h.mounts, fd)
	}
	h.devices = map[string]int{}
	for name, number := range devices() {
		if h.devices[name], err = openDevice("/dev/"+name, number); err != nil && (s.cfg.InUser || name == "null") {
			return stageError("open /dev/"+name, err)
		}
	}
	h.null = h.devices["null"]
	h.sys = -1
	if fd, err := unix.OpenTree(unix.AT_FDCWD, "/sys", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE); err == nil {
		h.sys = fd
	}
	return nil
}

// openDevice opens a device of the machine and checks that it is the one.
func openDevice(p string, number uint64) (int, error) {
	fd, err := openPath(p)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || uint64(st.Rdev) != number {
		return -1, fmt.Errorf("%s is not the device that it should be", p)
	}
	return fd, nil
}

// detached makes a mount of Spec.Mounts that is not attached yet.
func (s *stage) detached(m Mount) (int, error) {
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if m.Readonly {
		attrs |= attrReadonly
	}
	var fd int
	var err error
	switch m.Kind {
	case Bind:
		var src int
		if src, err = openPath(m.Source); err == nil {
			fd, err = clone(src)
			unix.Close(src)
		}
	case OverlayMount:
		fd, err = overlayMount(*m.Overlay, "", s.cfg.InUser)
	case Tmpfs:
		options := []option{{"mode", fmt.Sprintf("%04o", m.Mode)}}
		if m.Size > 0 {
			options = append(options, option{"size", strconv.FormatInt(m.Size, 10)})
		}
		fd, err = newMount("tmpfs", 0, options...)
	default:
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	return fd, setAttrs(fd, attrs)
}

// scratch covers the machine's /dev with memory that only this stage sees, and that goes with the old root.
func (s *stage) scratch() (int, error) {
	mount, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID, option{"mode", "0755"}) // it holds the step's device nodes
	if err != nil {
		return -1, mountRefused("make a place for the root", err)
	}
	at, err := openPath("/dev")
	if err != nil {
		return -1, stageError("make a place for the root", err)
	}
	defer unix.Close(at)
	if err := attach(mount, at); err != nil {
		return -1, mountRefused("make a place for the root", err)
	}
	return mount, stageError("make a place for the root", unix.Mkdirat(mount, "root", 0o755))
}

// mount attaches one of Spec.Mounts.
func (s *stage) mount(i int, m Mount, scratch int) error {
	fd := s.host.mounts[i]
	if m.Kind == File {
		name := "file" + strconv.Itoa(i)
		if err := writeFile(scratch, name, m); err != nil {
			return err
		}
		var err error
		if fd, err = cloneFile(scratch, name, m.Readonly); err != nil {
			return err
		}
	}
	isDir, err := isDirectory(fd)
	if err != nil {
		return err
	}
	at, err := s.walk.to(m.Dest, isDir, makePoint)
	if err != nil {
		return err
	}
	if m.Kind == Tmpfs && (m.UID != 0 || m.GID != 0) {
		if err := unix.Fchownat(fd, "", int(m.UID), int(m.GID), unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if err := attach(fd, at); err != nil {
		return err
	}
	s.walk.toRoot() // what it has open lies below the mount
	return nil
}

// generated mounts the files that are made for the step.
func (s *stage) generated(scratch int) error {
	for _, f := range []struct {
		name, dest string
		content    []byte
	}{{"hosts", "/etc/hosts", s.cfg.Spec.Hosts}, {"resolv.conf", "/etc/resolv.conf", s.cfg.Spec.ResolvConf}} {
		if err := writeFile(scratch, f.name, Mount{Content: f.content, Mode: 0o644}); err != nil {
			return stageError("make "+f.dest, err)
		}
		fd, err := cloneFile(scratch, f.name, true)
		if err != nil {
			return mountRefused("mount "+f.dest, err)
		}
		at, err := s.walk.to(f.dest, false, makePoint)
		if err != nil {
			return stageError("mount "+f.dest, err)
		}
		if err := attach(fd, at); err != nil {
			return mountRefused("mount "+f.dest, err)
		}
		s.walk.toRoot()
	}
	return nil
}

// writeFile makes a file in memory.
func writeFile(dir int, name string, m Mount) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for rest := m.Content; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := unix.Fchown(fd, int(m.UID), int(m.GID)); err != nil {
		return err
	}
	return unix.Fchmod(fd, m.Mode)
}

func cloneFile(dir int, name string, readonly bool) (int, error) {
	fd, err := unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fd, err
	}
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if readonly {
		attrs |= attrReadonly
	}
	return fd, setAttrs(fd, attrs)
}

func isDirectory(fd int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// plain opens a path in which no component may be a link: the places of /proc, /sys and /dev.
func (s *stage) plain(p string) (int, error) {
	return unix.Openat2(s.root, strings.TrimPrefix(p, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// attachPlain mounts a file system of the kernel's at a directory that is made where it is missing.
func (s *stage) attachPlain(mount int, p string) error {
	if _, err := s.walk.to(p, true, makePoint); err != nil {
		return err
	}
	s.walk.toRoot()
	at, err := s.plain(p)
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s is a symbolic link in the step's root", p)
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return attach(mount, at)
}
