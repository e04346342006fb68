package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/idmap"
)

// devices returns the device numbers of the nodes in the /dev of every step.
func devices() map[string]uint64 {
	return map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7),
		"random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0),
	}
}

// hostFiles holds descriptors of the machine's files and of detached mounts. They are opened before the first mount is
// attached, while all paths still lead to the machine's files.
type hostFiles struct {
	root    int   // the detached mount of the root
	mounts  []int // detached mounts of Spec.Mounts; -1 for a File or Tmpfs
	devices map[string]int
	null    int
	sys     int // a copy of /sys as a fallback; -1 if it cannot be cloned
}

// buildRoot attaches all mounts of the step. All mounts are created detached and attached by descriptor, see walk. The
// mount namespace is private to the step, so that all mounts disappear with it; nothing has to be unmounted.
func (s *setup) buildRoot() error {
	if err := s.openHost(); err != nil {
		return err
	}
	scratch, err := s.mountScratch()
	if err != nil {
		return err
	}
	at, err := unix.Openat(scratch, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrapSetup("open the mountpoint of the root", err)
	}
	if err := attach(s.host.root, at); err != nil {
		return wrapMount("mount the root", err)
	}
	s.root = s.host.root
	if s.walk, err = newWalk(s.root); err != nil {
		return wrapSetup("open the root", err)
	}
	defer func() { s.created = s.walk.created }()
	if err := s.systemMounts(scratch); err != nil {
		return err
	}
	if err := s.mountGenerated(scratch); err != nil {
		return err
	}
	for i, m := range s.cfg.Spec.Mounts {
		if err := s.mount(i, m, scratch); err != nil {
			return wrapSetup("mount "+m.Dest, err)
		}
	}
	return nil
}

// openHost opens everything that the step uses from outside its root.
func (s *setup) openHost() error {
	spec := &s.cfg.Spec
	h := &s.host
	var err error
	if h.root, err = overlayMount(spec.Root, s.cfg.MountpointLayer, s.cfg.InUser); err != nil {
		return wrapMount("mount the layers", err)
	}
	for _, m := range spec.Mounts {
		fd, err := s.detachedMount(m)
		if err != nil {
			return wrapSetup("mount "+m.Dest, err)
		}
		h.mounts = append(h.mounts, fd)
	}
	h.devices = map[string]int{}
	for name, number := range devices() {
		h.devices[name], err = openDevice("/dev/"+name, number)
		if err != nil && (s.cfg.InUser || name == "null") { // otherwise device creates the node
			return wrapSetup("open /dev/"+name, err)
		}
	}
	h.null = h.devices["null"]
	h.sys = -1
	const recursive = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE
	if fd, err := unix.OpenTree(unix.AT_FDCWD, "/sys", recursive); err == nil {
		h.sys = fd
	}
	return nil
}

// openDevice opens a device of the machine and checks its number.
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
		return -1, fmt.Errorf("%s is not character device %d:%d", p, unix.Major(number), unix.Minor(number))
	}
	return fd, nil
}

// detachedMount creates a mount of Spec.Mounts without attaching it. It returns -1 for a File or Tmpfs, which mount
// creates.
func (s *setup) detachedMount(m Mount) (int, error) {
	var fd int
	var err error
	switch m.Kind {
	case Bind:
		var src int
		if src, err = m.open(); err == nil {
			fd, err = clone(src)
			unix.Close(src)
		}
	case OverlayMount:
		fd, err = overlayMount(*m.Overlay, "", s.cfg.InUser)
	default:
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	return fd, setAttrs(fd, m.attrs())
}

// attrs returns the attributes of a mount.
func (m Mount) attrs() uint64 {
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if m.Readonly {
		attrs |= attrReadonly
	}
	return attrs
}

// newTmpfs creates a tmpfs for the mountpoint at. Without a mode it gets the mode of the directory that it covers, and
// 1777 if that was created for it.
func newTmpfs(m Mount, at int, created bool) (int, error) {
	mode := m.Mode
	if mode == 0 {
		var st unix.Stat_t
		if err := unix.Fstat(at, &st); err != nil {
			return -1, err
		}
		mode = st.Mode & 0o7777
	}
	if m.Mode == 0 && created {
		mode = 0o1777
	}
	options := []option{{"mode", fmt.Sprintf("%04o", mode)}}
	if m.Size > 0 {
		options = append(options, option{"size", strconv.FormatInt(m.Size, 10)})
	}
	fd, err := newMount("tmpfs", 0, options...)
	if err != nil {
		return -1, err
	}
	return fd, setAttrs(fd, m.attrs())
}

// mountScratch mounts a tmpfs over the machine's /dev, in this mount namespace only. It holds the mountpoint of the
// root, the step's device nodes and generated files, and disappears with the old root. It must not be nodev, because
// bind mounts of the nodes inherit that.
func (s *setup) mountScratch() (int, error) {
	const what = "create the mountpoint of the root"
	mount, err := newMount("tmpfs", unix.MOUNT_ATTR_NOSUID, option{"mode", "0755"})
	if err != nil {
		return -1, wrapMount(what, err)
	}
	at, err := openPath("/dev")
	if err != nil {
		return -1, wrapSetup(what, err)
	}
	defer unix.Close(at)
	if err := attach(mount, at); err != nil {
		return -1, wrapMount(what, err)
	}
	return mount, wrapSetup(what, unix.Mkdirat(mount, "root", 0o755))
}

// mount attaches one of Spec.Mounts.
func (s *setup) mount(i int, m Mount, scratch int) error {
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
	isDir := m.Kind == Tmpfs
	if !isDir {
		var err error
		if isDir, err = isDirectory(fd); err != nil {
			return err
		}
	}
	before := len(s.walk.created)
	at, err := s.walk.to(m.Dest, isDir, createMountpoint)
	if err != nil {
		return err
	}
	if m.Kind == Tmpfs {
		if fd, err = newTmpfs(m, at, len(s.walk.created) > before); err != nil {
			return err
		}
	}
	if m.Kind == Tmpfs && (m.UID != 0 || m.GID != 0) {
		if err := unix.Fchownat(fd, "", int(m.UID), int(m.GID), unix.AT_EMPTY_PATH); err != nil {
			return idmap.Explain(err, m.UID, m.GID)
		}
	}
	if err := attach(fd, at); err != nil {
		return err
	}
	s.walk.toRoot() // its descriptors lead below the new mount
	return nil
}

// mountGenerated mounts /etc/hosts and /etc/resolv.conf, read-only.
func (s *setup) mountGenerated(scratch int) error {
	for _, f := range []struct {
		name, dest string
		content    []byte
	}{{"hosts", "/etc/hosts", s.cfg.Spec.Hosts}, {"resolv.conf", "/etc/resolv.conf", s.cfg.Spec.ResolvConf}} {
		if err := writeFile(scratch, f.name, Mount{Content: f.content, Mode: 0o644}); err != nil {
			return wrapSetup("create "+f.dest, err)
		}
		fd, err := cloneFile(scratch, f.name, true)
		if err != nil {
			return wrapMount("mount "+f.dest, err)
		}
		at, err := s.walk.to(f.dest, false, createMountpoint)
		if err != nil {
			return wrapSetup("mount "+f.dest, err)
		}
		if err := attach(fd, at); err != nil {
			return wrapMount("mount "+f.dest, err)
		}
		s.walk.toRoot()
	}
	return nil
}

// writeFile creates the file name in the tmpfs dir.
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
		return idmap.Explain(err, m.UID, m.GID)
	}
	return unix.Fchmod(fd, m.Mode)
}

// cloneFile returns a detached bind mount of the file name in the tmpfs dir.
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

// openNoSymlinks opens a path below the root in which no component may be a link.
func (s *setup) openNoSymlinks(p string) (int, error) {
	return unix.Openat2(s.root, strings.TrimPrefix(p, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// attachNoSymlinks attaches /proc, /sys or /dev, and creates the directory if it is missing. None of them may be a
// link: it would redirect the masks below the mount as well, so that a step could read an unmasked /proc
// (TestHostileRoot).
func (s *setup) attachNoSymlinks(mount int, p string) error {
	if _, err := s.walk.to(p, true, createMountpoint); err != nil {
		return err
	}
	s.walk.toRoot()
	at, err := s.openNoSymlinks(p)
	if errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s is a symbolic link in the step's root", p)
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return attach(mount, at)
}
