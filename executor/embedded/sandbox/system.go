package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultShm is the size of /dev/shm in bytes.
const defaultShm = 64 << 20

// masked is what no step may read; readonly is what none may write. They are the OCI runtimes' lists.
func masked() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonly() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// systemMounts mounts /proc, /sys and /dev.
func (s *stage) systemMounts(scratch int) error {
	insecure := s.cfg.Spec.Insecure
	proc, err := newMount("proc", attrPlain)
	if err == nil {
		err = s.attachPlain(proc, "/proc")
	}
	if err != nil {
		return mountRefused("mount /proc", err)
	}
	if err := s.mountSys(insecure); err != nil {
		return mountRefused("mount /sys", err)
	}
	if err := s.mountDev(scratch); err != nil {
		return mountRefused("mount /dev", err)
	}
	if insecure {
		return nil
	}
	for _, p := range masked() {
		if err := s.mask(p); err != nil {
			return mountRefused("mask "+p, err)
		}
	}
	for _, p := range readonly() {
		if err := s.protect(p); err != nil {
			return mountRefused("protect "+p, err)
		}
	}
	return nil
}

// mountSys mounts /sys: that of the step's own network, or, where a user may not have that, the machine's, read-only.
func (s *stage) mountSys(insecure bool) error {
	attrs := attrPlain
	if !insecure {
		attrs |= attrReadonly
	}
	sys, err := newMount("sysfs", attrs)
	if err != nil && s.host.sys >= 0 {
		sys = s.host.sys
		err = unix.MountSetattr(sys, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: uint64(attrPlain | attrReadonly)})
	}
	if err != nil {
		return err
	}
	return s.attachPlain(sys, "/sys")
}

// mask covers a path: a file with /dev/null, a directory with an empty one.
func (s *stage) mask(p string) error {
	at, err := s.plain(p)
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
		cover, err = newMount("tmpfs", attrPlain|attrReadonly, option{"nr_inodes", "2"})
	} else {
		cover, err = clone(s.host.null)
	}
	if err != nil {
		return err
	}
	return attach(cover, at)
}

// protect makes a path read-only.
func (s *stage) protect(p string) error {
	at, err := s.plain(p)
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
	if err := setAttrs(fd, attrPlain|attrReadonly); err != nil {
		return err
	}
	return attach(fd, at)
}

// mountDev makes a /dev of the step's own. Like the root it does not let device nodes be opened that the step makes; those
// that it has are mounts, each from where that is allowed.
func (s *stage) mountDev(scratch int) error {
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_STRICTATIME
	dev, err := newMount("tmpfs", attrs, option{"mode", "0755"}, option{"size", "65536k"})
	if err != nil {
		return err
	}
	if err := s.attachPlain(dev, "/dev"); err != nil {
		return err
	}
	for name, number := range devices() {
		if err := s.device(scratch, dev, name, number); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := unix.Symlinkat(target, dev, name); err != nil {
			return err
		}
	}
	pts := []option{{"newinstance", ""}, {"ptmxmode", "0666"}, {"mode", "0620"}}
	if !s.cfg.InUser || s.cfg.Groups {
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
		{"shm", "tmpfs", attrPlain, []option{{"mode", "1777"}, {"size", strconv.FormatInt(shm, 10)}}},
		{"mqueue", "mqueue", attrPlain, nil},
	} {
		if err := mountIn(dev, m.name, m.kind, m.attrs, m.options); err != nil {
			return err
		}
	}
	return nil
}

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

// device mounts a node: one that is made for this step, so that its mode is the step's own affair, or, where a user may not
// make any, the machine's.
func (s *stage) device(scratch, dev int, name string, number uint64) error {
	if err := makePoint(dev, name, false); err != nil {
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
	return unix.MoveMount(fd, "", dev, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// loopbackUp starts lo, the only interface that a new network has.
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

// limitNumbers are the limits by name.
func limitNumbers() map[string]int {
	return map[string]int{
		"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
		"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
		"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
		"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
	}
}

// setLimits sets the step's limits. How many files it may open does not depend on who started the build.
func setLimits(limits []Rlimit) error {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		return stageError("read the limits", err)
	}
	hard := min(own.Max, 1<<20)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: min(1024, hard), Max: hard}); err != nil {
		return stageError("set the limit nofile", err)
	}
	for _, l := range limits {
		number, ok := limitNumbers()[l.Name]
		if !ok {
			return stageError("set the limit "+l.Name, errors.New("there is no such limit"))
		}
		if err := syscall.Setrlimit(number, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return stageError("set the limit "+l.Name, err)
		}
	}
	return nil
}
