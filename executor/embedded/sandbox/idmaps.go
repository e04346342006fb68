package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	sysuser "github.com/moby/sys/user"
)

// mapIDs writes the id maps of the process's user namespace. Root in it is this user. The other ids are the user's
// subordinate ids, if there are any and newuidmap and newgidmap can map them; otherwise there are no other ids. Root
// keeps all ids of its own namespace, with the same numbers.
func mapIDs(pid int) error {
	if os.Geteuid() == 0 {
		return keepIDs(pid)
	}
	uids, gids := rangesOf("/etc/subuid", os.Geteuid()), rangesOf("/etc/subgid", os.Geteuid())
	_, uidErr := exec.LookPath("newuidmap")
	_, gidErr := exec.LookPath("newgidmap")
	if uidErr == nil && gidErr == nil && len(uids) > 0 && len(gids) > 0 && !NoNewPrivileges() {
		if err := runMap("newuidmap", pid, os.Geteuid(), uids); err != nil {
			return err
		}
		return runMap("newgidmap", pid, os.Getegid(), gids)
	}
	proc := "/proc/" + strconv.Itoa(pid)
	for _, f := range []struct{ name, content string }{
		{"setgroups", "deny"},
		{"uid_map", fmt.Sprintf("0 %d 1\n", os.Geteuid())},
		{"gid_map", fmt.Sprintf("0 %d 1\n", os.Getegid())},
	} {
		if err := os.WriteFile(proc+"/"+f.name, []byte(f.content), 0); err != nil {
			return unavailable("map the user into the namespace", err)
		}
	}
	return nil
}

// rangesOf returns a user's ranges in a file such as /etc/subuid. An entry names the user by name or number.
func rangesOf(file string, uid int) []sysuser.SubID {
	name := userName(uid)
	ranges, err := sysuser.ParseSubIDFileFilter(file, func(s sysuser.SubID) bool {
		return s.Name == strconv.Itoa(uid) || name != "" && s.Name == name
	})
	if err != nil {
		return nil
	}
	return ranges
}

// runMap maps id 0 to own, and the ids from 1 to the ranges, with newuidmap or newgidmap.
func runMap(tool string, pid, own int, ranges []sysuser.SubID) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	next := int64(1)
	for _, r := range ranges {
		args = append(args, strconv.FormatInt(next, 10), strconv.FormatInt(r.SubID, 10), strconv.FormatInt(r.Count, 10))
		next += r.Count
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		return &UnavailableError{
			What: "map subordinate ids with " + tool, Err: fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out))),
			Hint: "check this user's ranges in /etc/subuid and /etc/subgid, and that " + tool + " is setuid root; " +
				"in a container it needs file capabilities instead: " +
				"setcap cap_setuid=ep /usr/bin/newuidmap && setcap cap_setgid=ep /usr/bin/newgidmap",
		}
	}
	return nil
}

// keepIDs maps every id that exists in this process's user namespace to itself.
func keepIDs(pid int) error {
	for _, name := range []string{"uid_map", "gid_map"} {
		own, err := sysuser.ParseIDMapFile("/proc/self/" + name)
		if err != nil {
			return fmt.Errorf("read the ids of this process: %w", err)
		}
		var same strings.Builder
		for _, m := range own {
			fmt.Fprintf(&same, "%d %d %d\n", m.ID, m.ID, m.Count)
		}
		if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/"+name, []byte(same.String()), 0); err != nil {
			return unavailable("map the ids of root into the namespace", err)
		}
	}
	return nil
}

// userName returns a user's name, or "". Without cgo, package user knows the users of /etc/passwd only; id also knows
// those of a directory service.
func userName(uid int) string {
	number := strconv.Itoa(uid)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	args := []string{"-un"}
	if uid != os.Geteuid() { // in a user namespace
		args = append(args, number)
	}
	out, err := exec.Command("id", args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
