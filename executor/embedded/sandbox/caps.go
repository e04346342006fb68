package sandbox

import (
	"golang.org/x/sys/unix"
)

// defaultCaps is Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const defaultCaps = uint64(0xa80425fb)

// lastCap is how far the bits are tried; the kernel says where they end.
const lastCap = 63

// dropBounding takes all capabilities but keep from what any program of the step can ever get.
func dropBounding(keep uint64) error {
	for c := range uintptr(lastCap + 1) {
		if keep&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			return nil // the kernel knows no such one, nor any behind it
		} else if err != nil {
			return err
		}
	}
	return nil
}

// setCaps sets the effective and permitted set; nothing is inherited, and nothing ambient.
func setCaps(set uint64) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && err != unix.EINVAL {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(set), Permitted: uint32(set)},
		{Effective: uint32(set >> 32), Permitted: uint32(set >> 32)},
	}
	return unix.Capset(&header, &data[0])
}
