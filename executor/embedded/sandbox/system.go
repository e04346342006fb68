package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/idmap"
)

// defaultShm is the default size of /dev/shm in bytes.
const defaultShm = 64 << 20

// maskedPaths returns the paths that no step may read. It is the list of OCI runtimes.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware",
	}
}

// readonlyPaths returns the paths that no step may write. It is the list of OCI runtimes.
func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// systemMounts mounts /proc, /sys and /dev.
func (s *setup) systemMounts(scratch int) error {
	insecure := s.cfg.Spec.Insecure
	proc, err := newMount("proc", attrNoExec)
	if err == nil {
		err = s.attachNoSymlinks(proc, "/proc")
	}
	if err != nil && s.cfg.InUser {
		err = withHint(err, hintProc)
	}
	if err != nil {
		return wrapMount("mount /proc", err)
	}
	if err := s.mountSys(insecure); err != nil {
		return wrapMount("mount /sys", err)
	}
	if err := s.mountDev(scratch); err != nil {
		return wrapMount("mount /dev", err)
	}
	if insecure {
		return nil
	}
	for _, p := range maskedPaths() {
		if err := s.mask(p); err != nil {
			return wrapMount("mask "+p, err)
		}
	}
	for _, p := range readonlyPaths() {
		if err := s.makeReadonly(p); err != nil {
			return wrapMount("make "+p+" read-only", err)
		}
	}
	return nil
}

// mountSys mounts a new sysfs, which shows the step's own network. If the kernel does not allow that to an unprivileged
// user, it mounts the machine's /sys read-only.
func (s *setup) mountSys(insecure bool) error {
	attrs := attrNoExec
	if !insecure {
		attrs |= attrReadonly
	}
	sys, err := newMount("sysfs", attrs)
	if err != nil && s.host.sys >= 0 {
		sys = s.host.sys
		attrs := &unix.MountAttr{Attr_set: uint64(attrNoExec | attrReadonly)}
		err = unix.MountSetattr(sys, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attrs)
	}
	if err != nil {
		return err
	}
	return s.attachNoSymlinks(sys, "/sys")
}

// mask mounts /dev/null over a file, or an empty directory over a directory. A missing path is not an error.
func (s *setup) mask(p string) error {
	at, err := s.openNoSymlinks(p)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	isDir, err := isDirectory(at)
	if err != nil {
		return err
	}
	var cover int
	if isDir {
		cover, err = newMount("tmpfs", attrNoExec|attrReadonly, option{"nr_inodes", "2"})
	} else {
		cover, err = clone(s.host.null)
	}
	if err != nil {
		return err
	}
	return attach(cover, at)
}

// makeReadonly mounts a path over itself, read-only. A missing path is not an error.
func (s *setup) makeReadonly(p string) error {
	at, err := s.openNoSymlinks(p)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	fd, err := clone(at)
	if err != nil {
		return err
	}
	if err := setAttrs(fd, attrNoExec|attrReadonly); err != nil {
		return err
	}
	return attach(fd, at)
}

// mountDev mounts the step's own /dev. It is nodev like the root, so that a device node that the step creates cannot be
// opened. The standard devices are bind mounts of nodes on a mount without nodev. TestRefused shows both.
func (s *setup) mountDev(scratch int) error {
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_STRICTATIME
	dev, err := newMount("tmpfs", attrs, option{"mode", "0755"}, option{"size", "65536k"})
	if err != nil {
		return err
	}
	if err := s.attachNoSymlinks(dev, "/dev"); err != nil {
		return err
	}
	for name, number := range devices() {
		if err := s.device(scratch, dev, name, number); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
	} {
		if err := unix.Symlinkat(target, dev, name); err != nil {
			return err
		}
	}
	return s.mountInDev(dev)
}

// mountInDev mounts the file systems below /dev, except those that a mount of the step replaces.
func (s *setup) mountInDev(dev int) error {
	pts := []option{{"newinstance", ""}, {"ptmxmode", "0666"}, {"mode", "0620"}}
	const tty = 5 // the group of terminals
	if !s.cfg.InUser || s.cfg.Groups && idmap.Groups() > tty {
		pts = append(pts, option{"gid", "5"})
	}
	shm := s.cfg.Spec.ShmSize
	if shm <= 0 {
		shm = defaultShm
	}
	for _, m := range []struct {
		name, kind string
		attrs      int
		options    []option
	}{
		{"pts", "devpts", unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, pts},
		{"shm", "tmpfs", attrNoExec, []option{{"mode", "1777"}, {"size", strconv.FormatInt(shm, 10)}}},
		{"mqueue", "mqueue", attrNoExec, nil},
	} {
		if s.cfg.Spec.covers("/dev/" + m.name) {
			continue
		}
		if err := mountIn(dev, m.name, m.kind, m.attrs, m.options); err != nil {
			return err
		}
	}
	return nil
}

// mountIn creates the directory name in dir and mounts a new file system there.
func mountIn(dir int, name, kind string, attrs int, options []option) error {
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return err
	}
	fd, err := newMount(kind, attrs, options...)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", dir, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// device mounts a device node in /dev. It creates a new node, so that a chmod by the step does not change the machine's
// node (TestDevicesAreItsOwn). A user namespace must not create nodes, so there it mounts the machine's, read-only:
// root of a container owns them, also in its user namespace. A device on a read-only mount can still be written.
func (s *setup) device(scratch, dev int, name string, number uint64) error {
	if err := createMountpoint(dev, name, false); err != nil {
		return err
	}
	from := s.host.devices[name]
	if !s.cfg.InUser {
		own := "device-" + name
		if err := unix.Mknodat(scratch, own, unix.S_IFCHR|0o666, int(number)); err != nil {
			return err
		}
		var err error
		if from, err = unix.Openat(scratch, own, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		defer unix.Close(from)
	}
	fd, err := clone(from)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if s.cfg.InUser {
		if err := setAttrs(fd, attrReadonly); err != nil {
			return err
		}
	}
	return unix.MoveMount(fd, "", dev, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// loopbackUp brings up lo, the only interface of a new network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// rlimitNumbers maps the names of resource limits to their numbers.
func rlimitNumbers() map[string]int {
	return map[string]int{
		"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
		"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
		"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
		"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
		"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
	}
}

// setLimits sets the step's resource limits. nofile has a fixed default (1024 soft, up to 2^20 hard), so that a step
// does not depend on the limits of the shell that started the build.
func setLimits(limits []Rlimit) error {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		return wrapSetup("read the limit nofile", err)
	}
	hard := min(own.Max, 1<<20)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: min(1024, hard), Max: hard}); err != nil {
		return wrapSetup("set the limit nofile", err)
	}
	for _, l := range limits {
		number, ok := rlimitNumbers()[l.Name]
		if !ok {
			return wrapSetup("set the limit "+l.Name, errors.New("unknown limit"))
		}
		if err := syscall.Setrlimit(number, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return wrapSetup("set the limit "+l.Name, err)
		}
	}
	return nil
}
