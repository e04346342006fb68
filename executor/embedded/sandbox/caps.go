package sandbox

import (
	"golang.org/x/sys/unix"
)

// defaultCaps is Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const defaultCaps = uint64(0xa80425fb)

// lastCap is the highest possible capability; the kernel reports where its own end.
const lastCap = 63

// dropBounding removes all capabilities except keep from the bounding set, so that no program of the step can gain
// them.
func dropBounding(keep uint64) error {
	for c := range uintptr(lastCap + 1) {
		if keep&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			return nil // the kernel does not know this capability or any after it
		} else if err != nil {
			return err
		}
	}
	return nil
}

// setCaps sets the effective and permitted sets and clears the inheritable and ambient sets.
func setCaps(set uint64) error {
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil && err != unix.EINVAL { // the kernel may be older than ambient capabilities
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(set), Permitted: uint32(set)},
		{Effective: uint32(set >> 32), Permitted: uint32(set >> 32)},
	}
	return unix.Capset(&header, &data[0])
}
