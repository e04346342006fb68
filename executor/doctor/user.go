package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	sysuser "github.com/moby/sys/user"
	"github.com/moby/sys/userns"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// User describes who builds.
type User struct {
	// Entered is why this program could not enter a user namespace, or nil.
	Entered error
	// Etc is the directory of subuid and subgid, and Proc that of uid_map and gid_map of this process.
	Etc, Proc string
}

// wantIDs is the number of ids that images of common distributions use.
const wantIDs = 65536

// inNamespace reports whether this process is root of a user namespace.
func inNamespace() bool { return os.Geteuid() == 0 && userns.RunningInUserNS() }

// needsNone reports whether this process is a root that needs no user namespace.
func needsNone() bool { return os.Geteuid() == 0 && !userns.RunningInUserNS() && sandbox.HasSysAdmin() }

// ids returns the ids that a map of the process has, and the one that root has outside.
func (u User) ids(name string) (count int64, root int) {
	maps, err := sysuser.ParseIDMapFile(filepath.Join(u.Proc, name))
	if err != nil {
		return 0, os.Geteuid()
	}
	root = os.Geteuid()
	for _, m := range maps {
		count += m.Count
		if m.ID == 0 {
			root = int(m.ParentID)
		}
	}
	return count, root
}

// outside returns the id of this user outside of the user namespace.
func (u User) outside() int {
	if !inNamespace() {
		return os.Geteuid()
	}
	_, root := u.ids("uid_map")
	return root
}

// namespaces checks that the user has a user namespace, or needs none.
func namespaces(u User) Check {
	return Check{Name: "user namespaces", Run: func(context.Context) Finding {
		switch {
		case u.Entered != nil:
			var e *sandbox.UnavailableError
			if errors.As(u.Entered, &e) {
				return fail(fmt.Sprintf("user %d cannot enter one: %s: %v", os.Geteuid(), e.What, e.Err), e.Hint)
			}
			return fail(fmt.Sprintf("user %d cannot enter one: %v", os.Geteuid(), u.Entered), sandbox.Hint())
		case needsNone():
			return skipf("root needs none")
		case inNamespace() && !sandbox.HasSysAdmin():
			return fail(fmt.Sprintf("user %d is root in one, but without privileges", u.outside()), sandbox.Hint())
		case inNamespace():
			return okf("user %d is root in one", u.outside())
		}
		return fail(fmt.Sprintf("user %d has none, and may not create the namespaces of steps without", os.Geteuid()),
			sandbox.Hint())
	}}
}

// newuidmap checks the programs that give a user more than one id.
func newuidmap(u User) Check {
	return Check{Name: "newuidmap", Run: func(context.Context) Finding {
		if u.outside() == 0 {
			return skipf("root does not use it")
		}
		ids := sandbox.SubordinateIDs(u.Etc, u.outside())
		var found []string
		for name, path := range map[string]string{"newuidmap": ids.UIDTool, "newgidmap": ids.GIDTool} {
			if path == "" {
				return warn(name+" is not in PATH, so that images cannot have files of other users than root",
					"install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)")
			}
			gains, err := sandbox.GainsPrivileges(path)
			if err != nil {
				return fail(err.Error(), "reinstall the package uidmap or shadow-utils")
			}
			if !gains {
				return fail(path+" is not setuid root", "run as root: chmod u+s "+path)
			}
			found = append(found, path)
		}
		if sandbox.NoNewPrivileges() {
			return fail("this process has no_new_privs, so that setuid programs have no effect",
				"allow privilege escalation in the container or service, or run as root")
		}
		if found[0] > found[1] {
			found[0], found[1] = found[1], found[0]
		}
		return okf("%s and %s gain privileges", found[1], found[0])
	}}
}

// subordinateIDs checks how many ids images can have.
func subordinateIDs(u User) Check {
	return Check{Name: "subordinate ids", Run: func(context.Context) Finding {
		if u.outside() == 0 {
			return skipf("root has all ids")
		}
		ids := sandbox.SubordinateIDs(u.Etc, u.outside())
		uids, gids := ids.UIDs, ids.GIDs
		if inNamespace() {
			uids, _ = u.ids("uid_map")
			gids, _ = u.ids("gid_map")
		}
		var lacks []string
		if ids.UIDs < wantIDs {
			lacks = append(lacks, filepath.Join(u.Etc, "subuid"))
		}
		if ids.GIDs < wantIDs {
			lacks = append(lacks, filepath.Join(u.Etc, "subgid"))
		}
		switch {
		case len(lacks) > 0:
			can := "root only"
			if min(uids, gids) > 1 {
				can = fmt.Sprintf("%d users and %d groups only", uids, gids)
			}
			return warn(fmt.Sprintf("user %s has fewer than %d ids in %s; images can have files of %s",
				ids.User, wantIDs, strings.Join(lacks, " and "), can), u.addRanges(ids.User))
		case inNamespace() && (uids < wantIDs || gids < wantIDs):
			return warn(fmt.Sprintf("user %s has ids, but only %d user and %d group ids are in use",
				ids.User, uids, gids), "see newuidmap")
		}
		return okf("user %s has %d user ids and %d group ids", ids.User, uids, gids)
	}}
}

// addRanges returns the command that gives a user ids that nobody has.
func (u User) addRanges(name string) string {
	first := int64(100000)
	for _, file := range []string{"subuid", "subgid"} {
		all, err := sysuser.ParseSubIDFile(filepath.Join(u.Etc, file))
		if err != nil {
			continue
		}
		for _, r := range all {
			first = max(first, r.SubID+r.Count)
		}
	}
	added := fmt.Sprintf("%d-%d", first, first+wantIDs-1)
	return "run as root: usermod --add-subuids " + added + " --add-subgids " + added + " " + name
}
