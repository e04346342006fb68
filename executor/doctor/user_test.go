package doctor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mountable returns an error if a file system cannot be mounted here.
func mountable(t *testing.T, kind string) error {
	t.Helper()
	mount := []string{"--mount", "--propagation", "private", "mount", "-t", kind, "none", t.TempDir()}
	out, err := exec.Command("unshare", mount...).CombinedOutput()
	if err != nil {
		return errors.New("cannot mount " + kind + ": " + string(out))
	}
	return nil
}

// TestUserNamespace runs the check as root, as a user with a namespace, and as a user where the machine forbids them:
// the limit is that of a user namespace around the child.
func TestUserNamespace(t *testing.T) {
	place{Check: "user namespaces"}.in(t).want(t, Skipped, "root needs none", "")
	attr, _ := ordinary(t)
	p := place{Check: "user namespaces", Enter: true, attr: attr, Cache: owned(t, attr)}
	p.in(t).want(t, OK, "is root in one", "")

	p.attr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}},
		GidMappingsEnableSetgroups: true,
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}},
	}
	p.Setup = "echo 0 >/proc/sys/user/max_user_namespaces\n" +
		"exec setpriv --reuid 1234 --regid 1234 --clear-groups " + self(t)
	p.in(t).
		want(t, Failure, "user 1234 cannot use one: create a user namespace", "sysctl -w user.max_user_namespaces")
	// Settings of Debian and Ubuntu, which this kernel lacks.
	fake := t.TempDir()
	for name, value := range map[string]string{
		"unprivileged_userns_clone": "0\n", "apparmor_restrict_unprivileged_userns": "1\n",
	} {
		if err := os.WriteFile(filepath.Join(fake, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(fake), 0o711); err != nil {
		t.Fatal(err)
	}
	bound := p
	bound.Setup = "mount --bind " + fake + " /proc/sys/kernel\n" + p.Setup
	f := bound.in(t)
	f.want(t, Failure, "create a user namespace", "kernel.unprivileged_userns_clone=1")
	f.want(t, Failure, "create a user namespace", "kernel.apparmor_restrict_unprivileged_userns=0")
	for _, blocked := range []string{"sandbox", "overlay", "seccomp", "network of steps"} {
		p.Check = blocked
		p.in(t).want(t, Skipped, "see user namespaces", "")
	}
}

// TestRootWithoutPrivileges runs the check as root of a container without privileges, where no namespace is allowed.
func TestRootWithoutPrivileges(t *testing.T) {
	p := place{Check: "user namespaces", wrap: []string{"setpriv", "--bounding-set", "-sys_admin,-net_admin"}}
	p.in(t).want(t, Failure, "root lacks the capabilities NET_ADMIN, SYS_ADMIN", "--privileged")

	// Ubuntu's AppArmor lets a user enter a namespace, but gives no privileges there.
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	p.attr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one}
	p.in(t).want(t, Failure, "user 0 cannot use one", "--privileged")
}

func TestNewuidmap(t *testing.T) {
	place{Check: "newuidmap"}.in(t).want(t, Skipped, "root", "")
	attr, _ := ordinary(t)
	p := place{Check: "newuidmap", Enter: true, attr: attr, Cache: owned(t, attr)}
	p.in(t).want(t, OK, "newuidmap and ", "")

	p.env = []string{"PATH=" + owned(t, attr)}
	p.in(t).want(t, Warning, "is not in PATH", "install the package uidmap")

	// Copies that are not setuid. Entering fails, and the report says why.
	dir := owned(t, attr)
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.env = []string{"PATH=" + dir}
	p.in(t).want(t, Failure, "is not setuid root", "chmod u+s "+dir)
	p.Check = "user namespaces"
	p.in(t).want(t, Failure, "map subordinate ids with newuidmap", "setuid root")

	p.Check, p.env, p.NoGain = "newuidmap", nil, true
	p.in(t).want(t, Warning, "no_new_privs", "allow privilege escalation")
}

func TestSubordinateIDs(t *testing.T) {
	place{Check: "subordinate ids"}.in(t).want(t, Skipped, "root has all ids", "")
	attr, name := ordinary(t)
	p := place{Check: "subordinate ids", Enter: true, attr: attr, Cache: owned(t, attr)}
	p.in(t).want(t, OK, "user "+name+" has 65537 user ids", "")

	etc := owned(t, attr)
	if err := os.WriteFile(filepath.Join(etc, "subuid"), []byte("other:300000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Etc = etc
	p.env = []string{"PATH=" + etc} // no newuidmap, so that only one id is mapped
	f := p.in(t)
	f.want(t, Warning, "images can have files of root only", "usermod --add-subuids 365536-431071")
	if !strings.Contains(f.Detail, "subuid and "+etc) {
		t.Errorf("%q does not name both files", f.Detail)
	}
	p.Etc = ""
	p.in(t).want(t, Warning, "only 1 user and 1 group ids are in use", "see newuidmap")
}
