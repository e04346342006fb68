package sandbox

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loadFilter installs a seccomp filter on the calling thread, which must be the one that executes the command. The
// thread needs CAP_SYS_ADMIN in its user namespace, because no_new_privs stays off: otherwise sudo would not work in
// steps. TestRun (capabilities) shows NoNewPrivs 0 and Seccomp 2; TestRefused shows system calls that the filter
// refuses.
func loadFilter(program []byte) error {
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	raw := make([]unix.SockFilter, len(program)/size)
	for i := range raw {
		p := program[i*size:]
		raw[i] = unix.SockFilter{
			Code: binary.NativeEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.NativeEndian.Uint32(p[4:]),
		}
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}
