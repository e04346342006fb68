package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes of mounts.
const (
	attrReadonly = unix.MOUNT_ATTR_RDONLY
	attrNoExec   = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
)

// option is one setting of a new file system; a flag has no value.
type option struct{ key, value string }

// newMount creates a detached mount of a new file system and returns its descriptor.
func newMount(kind string, attrs int, options ...option) (int, error) {
	ctx, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", kind, err)
	}
	defer unix.Close(ctx)
	for _, o := range options {
		if o.value == "" {
			err = unix.FsconfigSetFlag(ctx, o.key)
		} else {
			err = unix.FsconfigSetString(ctx, o.key, o.value)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s=%s of %s: %w", o.key, o.value, kind, err)
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("create %s: %w%s", kind, err, kernelMessage(ctx))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("fsmount %s: %w", kind, err)
	}
	return fd, nil
}

// kernelMessage returns the kernel's messages about a file system that it did not create, in parentheses, or "".
func kernelMessage(ctx int) string {
	var all []string
	buf := make([]byte, 512)
	for range 8 {
		n, err := unix.Read(ctx, buf)
		if err != nil || n <= 0 {
			break
		}
		all = append(all, strings.TrimSpace(string(buf[:n])))
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// clone returns a detached copy of the mount at an open file or directory, without the mounts below it.
func clone(fd int) (int, error) {
	return unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
}

// setAttrs adds attributes to a mount.
func setAttrs(fd int, attrs uint64) error {
	if attrs == 0 {
		return nil
	}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs})
}

// attach attaches a detached mount to an open directory or file. It takes descriptors, not paths, so that no link is
// followed.
func attach(mount, at int) error {
	return unix.MoveMount(mount, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// openPath opens a path of the machine. The path must come from the caller of Run, not from the root, since links are
// followed.
func openPath(p string) (int, error) {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", p, err)
	}
	return fd, nil
}

// maxRaces is how often a path is resolved again because a component was renamed meanwhile.
const maxRaces = 1000

// open opens the file or directory that a Bind mounts.
//
// The problem: another step can have the same directory mounted, and can replace a component of Within by a symbolic
// link at any moment (CVE-2024-23651). If the path were checked first and mounted later, the mount could be a directory
// of the machine.
//
// The idea: the kernel resolves the path below the open Source, and treats that as the root for links and "..". The
// result is a descriptor, which is what is mounted. TestWithinRace shows it.
func (m *Mount) open() (int, error) {
	source, err := openPath(m.Source)
	if err != nil || path.Join("/", m.Within) == "/" {
		return source, err
	}
	defer unix.Close(source)
	how := &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range maxRaces {
		fd, err := unix.Openat2(source, m.Within, how)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return -1, fmt.Errorf("open %s: %w", m.Within, err)
		}
	}
	return -1, fmt.Errorf("open %s: its directories change all the time", m.Within)
}

// isDir reports whether a Bind mounts a directory.
func (m *Mount) isDir() (bool, error) {
	fd, err := m.open()
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return isDirectory(fd)
}

// Check returns an error if there is nothing to mount at the source of a Bind.
func (m *Mount) Check() error {
	_, err := m.isDir()
	return err
}

// fdPath returns a short path of an open descriptor.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// maxStacked is the number of lower layers that the kernel accepts in an overlay.
const maxStacked = 500

// overlayMount creates a detached overlay mount. mountpoints is a directory that becomes the lowest layer; "" is none.
// userXattr makes overlayfs use attributes named user.overlay.*; in a user namespace it may not set trusted.overlay.*.
//
// A RUN step writes its layer in overlayfs's format: a removed file is a whiteout (a character device 0:0), and a
// replaced directory is opaque. The rest of the program reads that format, so the options keep layers independent of
// each other and of the machine. Without redirect_dir=off a renamed directory would be a reference to a path in a lower
// layer; without metacopy=off a chmod would store a file without its content; with index=on the kernel would refuse to
// mount a layer above other lower layers. volatile skips syncs; the cache syncs what it keeps. TestLayer shows a
// whiteout.
//
// Layers are passed by descriptor, because the value of a mount option has at most 255 bytes; TestManyLayers mounts
// 120.
func overlayMount(o Overlay, mountpoints string, userXattr bool) (int, error) {
	lower := o.Lower
	if mountpoints != "" {
		lower = append(append([]string(nil), lower...), mountpoints)
	}
	if o.Upper == "" && len(lower) == 1 {
		return readonlyDir(lower[0])
	}
	if len(lower) > maxStacked {
		return -1, fmt.Errorf("the step has more layers than the %d that Linux stacks: "+
			"join consecutive commands", maxStacked-1)
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	open := func(p string) (string, error) {
		fd, err := openPath(p)
		if err == nil {
			fds = append(fds, fd)
		}
		return fdPath(fd), err
	}
	var lowers []string
	for _, p := range lower {
		short, err := open(p)
		if err != nil {
			return -1, err
		}
		lowers = append(lowers, short)
	}
	options := []option{{"metacopy", "off"}, {"index", "off"}}
	if userXattr {
		options = append(options, option{"userxattr", ""}) // implies redirect_dir=off
	} else {
		options = append(options, option{"redirect_dir", "off"})
	}
	if o.Upper != "" {
		upper, err := open(o.Upper)
		if err != nil {
			return -1, err
		}
		work, err := open(o.Work)
		if err != nil {
			return -1, err
		}
		options = append(options, option{"upperdir", upper}, option{"workdir", work}, option{"volatile", ""})
	}
	attrs := unix.MOUNT_ATTR_NODEV // device nodes of layers, or that a step creates, cannot be opened
	if o.Upper == "" {
		attrs |= attrReadonly
	}
	fd, err := stacked(lowers, options, attrs)
	if err != nil && o.Upper != "" {
		err = explainUpper(o.Upper, err)
	}
	return fd, err
}

// stacked creates an overlay mount with one option for each layer. Before Linux 6.5 all layers must fit into one option
// of 255 bytes.
func stacked(lowers []string, options []option, attrs int) (int, error) {
	each := append([]option(nil), options...)
	for _, l := range lowers {
		each = append(each, option{"lowerdir+", l})
	}
	fd, err := newMount("overlay", attrs, each...)
	if !errors.Is(err, unix.EINVAL) {
		return fd, err
	}
	joined := strings.Join(lowers, ":")
	if len(joined) > 255 {
		return -1, fmt.Errorf("%w: a step with %d layers needs Linux 6.5 or later", err, len(lowers))
	}
	if old, oldErr := newMount("overlay", attrs, append(options, option{"lowerdir", joined})...); oldErr == nil {
		return old, nil
	}
	return -1, err
}

// readonlyDir returns a detached read-only bind mount of a directory. An overlay needs at least two layers.
func readonlyDir(dir string) (int, error) {
	src, err := openPath(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(src)
	fd, err := clone(src)
	if err != nil {
		return -1, err
	}
	return fd, setAttrs(fd, attrReadonly|unix.MOUNT_ATTR_NODEV)
}
