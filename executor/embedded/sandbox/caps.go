package sandbox

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultCaps is Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const defaultCaps = uint64(0xa80425fb)

// rootCaps is what root needs to create sandboxes: the capabilities of steps, and those to mount, to create namespaces
// and to configure networks.
const rootCaps = defaultCaps | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN

// mapCaps is what root needs to give a user namespace its ids.
const mapCaps = uint64(1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETFCAP)

// checkRoot returns an error if this process is a root that cannot create sandboxes. Enter found no user namespace.
func checkRoot(n Network) error {
	need := rootCaps
	if n == Host {
		need &^= 1 << unix.CAP_NET_ADMIN
	}
	lacks := need &^ ownCaps()
	if os.Geteuid() != 0 || lacks == 0 {
		return nil
	}
	var names []string
	for c, name := range capNames() {
		if lacks&(1<<c) != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	hint := hintNamespaces()
	if lacks&mapCaps != 0 {
		hint = "root needs the capabilities SETUID, SETGID and SETFCAP to give the namespace its ids; " + hint
	}
	return &UnavailableError{
		What: "create a user namespace", Hint: hint,
		Err: fmt.Errorf("not permitted, and without one root lacks the capabilities %s", strings.Join(names, ", ")),
	}
}

// capNames returns the names of the capabilities in rootCaps.
func capNames() map[int]string {
	return map[int]string{
		unix.CAP_CHOWN: "CHOWN", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE", unix.CAP_FOWNER: "FOWNER",
		unix.CAP_FSETID: "FSETID", unix.CAP_KILL: "KILL", unix.CAP_SETGID: "SETGID", unix.CAP_SETUID: "SETUID",
		unix.CAP_SETPCAP: "SETPCAP", unix.CAP_NET_BIND_SERVICE: "NET_BIND_SERVICE", unix.CAP_NET_ADMIN: "NET_ADMIN",
		unix.CAP_NET_RAW: "NET_RAW", unix.CAP_SYS_CHROOT: "SYS_CHROOT", unix.CAP_SYS_ADMIN: "SYS_ADMIN",
		unix.CAP_MKNOD: "MKNOD", unix.CAP_AUDIT_WRITE: "AUDIT_WRITE", unix.CAP_SETFCAP: "SETFCAP",
	}
}

// lastCap is the highest possible capability; the kernel reports where its own end.
const lastCap = 63

// allCaps returns the numbers of all capabilities that the kernel knows.
func allCaps() []uintptr {
	var all []uintptr
	for c := range uintptr(lastCap + 1) {
		if known, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && known >= 0 {
			all = append(all, c)
		}
	}
	return all
}

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
