// Package idmap reports facts about user namespaces, and explains ids that do not exist in one. It imports only the
// standard library, because the init process of a step waits for everything that package sandbox imports.
package idmap

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// initialNamespace is the inode number of the machine's own user namespace (PROC_USER_INIT_INO of Linux).
const initialNamespace = 0xEFFFFFFD

// InNamespace reports whether this process is in a user namespace other than the machine's own. The id maps do not show
// that: root of a container maps all ids to themselves.
func InNamespace() bool {
	info, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return false // a kernel without user namespaces
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Ino != initialNamespace
}

// OwnRoot reports whether this process is in a user namespace whose root is the root outside of it.
func OwnRoot() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(raw))
	return err == nil && len(f) >= 3 && f[0] == "0" && f[1] == "0" && InNamespace()
}

// Remedy says what an unprivileged user needs for more than one id.
const Remedy = "add entries for this user to /etc/subuid and /etc/subgid (subordinate ids), " +
	"and install newuidmap and newgidmap"

// Unmapped returns the message for a user, group or owner that the user namespace does not map.
func Unmapped(what string) string {
	return what + " is not mapped in this user namespace; " + Remedy
}

// Explain returns the message for an unmapped owner if that is why a chown failed, otherwise err.
func Explain(err error, uid, gid uint32) error {
	if errors.Is(err, syscall.EINVAL) && InNamespace() {
		return errors.New(Unmapped(fmt.Sprintf("owner %d:%d", uid, gid)))
	}
	return err
}

// Users and Groups return how many ids this process's user namespace maps.
func Users() uint64 { return count("/proc/self/uid_map") }

// Groups is described at Users.
func Groups() uint64 { return count("/proc/self/gid_map") }

func count(file string) uint64 {
	raw, err := os.ReadFile(file)
	if err != nil {
		return math.MaxUint32 // a kernel without user namespaces
	}
	var all uint64
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 {
			n, _ := strconv.ParseUint(f[2], 10, 64)
			all += n
		}
	}
	return all
}

// Hint explains the output of a command that failed because of an unmapped id, such as "chown: Invalid argument". It
// returns "" if that cannot be the reason.
func Hint(lines []string) string {
	ids := min(Users(), Groups())
	if ids >= math.MaxUint32 {
		return ""
	}
	for _, line := range lines {
		line = strings.ToLower(line)
		if strings.Contains(line, "invalid argument") || strings.Contains(line, "einval") ||
			strings.Contains(line, "groups") && strings.Contains(line, "not permitted") {
			return hint(ids)
		}
	}
	return ""
}

func hint(ids uint64) string {
	if ids == 1 {
		return "the command may need a user or group other than root, and this user namespace has no other; " + Remedy
	}
	return fmt.Sprintf("the command may need a user or group id above %d, and this user namespace has none; "+
		"use a lower id, or give this user larger ranges in /etc/subuid and /etc/subgid", ids-1)
}
