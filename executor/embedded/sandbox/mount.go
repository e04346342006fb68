package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes of mounts.
const (
	attrReadonly = unix.MOUNT_ATTR_RDONLY
	attrPlain    = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
)

// option is one setting of a new file system; a flag has no value.
type option struct{ key, value string }

// newMount makes a file system that is not attached anywhere yet and returns its descriptor.
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

// kernelMessage is what the kernel has to say about a file system that it did not make.
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

// clone copies the mount of what an open descriptor names, without what is mounted below it.
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

// attach puts a mount on an open directory or file.
func attach(mount, at int) error {
	return unix.MoveMount(mount, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// openPath opens a path of the machine, which this process was given by its caller.
func openPath(p string) (int, error) {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", p, err)
	}
	return fd, nil
}

// fdPath is a short path of an open descriptor.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// maxStacked is how many layers the kernel stacks.
const maxStacked = 500

// overlayMount makes an overlay that is not attached yet. Layers are named by descriptor, so that neither the length of
// their paths nor their number matters.
func overlayMount(o Overlay, points string, userXattr bool) (int, error) {
	lower := o.Lower
	if points != "" {
		lower = append(append([]string(nil), lower...), points)
	}
	if o.Upper == "" && len(lower) == 1 {
		return readonlyDir(lower[0])
	}
	if len(lower) > maxStacked {
		return -1, fmt.Errorf("the step stands on more layers than the %d that Linux stacks: join commands that follow each other", maxStacked-1)
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
		options = append(options, option{"userxattr", ""}) // which turns redirects off by itself
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
	attrs := unix.MOUNT_ATTR_NODEV // whatever nodes a layer holds or a step makes, they open no device
	if o.Upper == "" {
		attrs |= attrReadonly
	}
	return stacked(lowers, options, attrs)
}

// stacked mounts with one option a layer; a kernel before 6.5 wants them all in one.
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
		return -1, fmt.Errorf("%w; with %d layers a step needs Linux 6.5", err, len(lowers))
	}
	if old, oldErr := newMount("overlay", attrs, append(options, option{"lowerdir", joined})...); oldErr == nil {
		return old, nil
	}
	return -1, err
}

// readonlyDir is a directory as a mount that cannot be written.
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
