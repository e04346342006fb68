package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// imageSize is the maximum size of the file system in a file, in bytes. The file is sparse.
const imageSize = 60 << 30

// journaled reports whether dir is on a file system on which both builders work at full speed.
func journaled(dir string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false
	}
	switch fs.Type {
	case unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return true
	case unix.EXT4_SUPER_MAGIC:
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return false
		}
		device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
		if err != nil {
			return false
		}
		journals, err := filepath.Glob("/proc/fs/jbd2/" + filepath.Base(device) + "-*")
		return err == nil && len(journals) > 0
	}
	return false
}

// onJournaled runs this command again on a journaled file system in a file in dir. The mount is visible only to that
// process and disappears with it.
func onJournaled(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the file system of %s has no journal, and mounting one needs root: run as root, or use "+
			"another -dir", dir)
	}
	work, err := os.MkdirTemp(dir, "bake-bench-disk-")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "the file system of %s has no journal: using a journaled ext4 in a file there\n", dir)
	err = errors.Join(makeDisk(ctx, work), again(ctx, work))
	return errors.Join(err, os.RemoveAll(work))
}

func makeDisk(ctx context.Context, work string) error {
	image := filepath.Join(work, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, imageSize),
		os.Mkdir(filepath.Join(work, "mnt"), 0o755)); err != nil {
		return err
	}
	_, err := measure(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-E",
		"lazy_itable_init=0,lazy_journal_init=0,nodiscard", image))
	return err
}

// again runs this command in a new mount namespace with the file system mounted.
func again(ctx context.Context, work string) error {
	script := `mount -o loop,noatime "$1/disk" "$1/mnt" && shift && exec "$@"`
	args := append([]string{"-c", script, "sh", work, "/proc/self/exe"}, os.Args[1:]...)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args[4] = self
	cmd := exec.CommandContext(ctx, "sh", append(args, "-mounted", "-dir", filepath.Join(work, "mnt"))...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}
