package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	sysuser "github.com/moby/sys/user"

	"github.com/bakebuild/bake/executor/embedded/idmap"
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
func inNamespace() bool { return os.Geteuid() == 0 && idmap.InNamespace() }

// canRun returns why this process cannot run steps, or nil.
func (u User) canRun() error {
	if u.Entered != nil {
		return u.Entered
	}
	return sandbox.CheckRoot()
}

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
		err := u.canRun()
		var e *sandbox.UnavailableError
		switch {
		case errors.As(err, &e):
			return fail(fmt.Sprintf("user %d cannot use one: %s: %v", os.Geteuid(), e.What, e.Err), e.Hint)
		case err != nil:
			return fail(fmt.Sprintf("user %d cannot use one: %v", os.Geteuid(), err), sandbox.Hint())
		case inNamespace():
			return okf("user %d is root in one", u.outside())
		}
		return skipf("root needs none")
	}}
}

// newuidmap checks the programs that give a user more than one id.
func newuidmap(u User) Check {
	return Check{Name: "newuidmap", Run: func(context.Context) Finding {
		if u.outside() == 0 {
			return skipf("root does not use it")
		}
		ids := sandbox.SubordinateIDs(u.Etc, u.outside())
		for _, tool := range []struct{ name, path string }{{"newuidmap", ids.UIDTool}, {"newgidmap", ids.GIDTool}} {
			path := tool.path
			if path == "" {
				return warn(tool.name+" is not in PATH, so that images cannot have files of other users than root",
					"install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)")
			}
			gains, err := sandbox.GainsPrivileges(path)
			if err != nil {
				return fail(err.Error(), "reinstall the package uidmap or shadow-utils")
			}
			if !gains {
				return fail(path+" is not setuid root", "run as root: chmod u+s "+path)
			}
		}
		if sandbox.NoNewPrivileges() {
			return warn("no_new_privs keeps them from having an effect, so that images can have files of root only",
				"allow privilege escalation in the container or service, or run as root")
		}
		return okf("%s and %s gain privileges", ids.UIDTool, ids.GIDTool)
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

// addRanges returns the command that gives a user unused ids.
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
