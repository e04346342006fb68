package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	sysuser "github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// This file answers questions about the machine without running a step, for a report to the user. It must use the same
// functions as a step, so that the report and a build cannot disagree.

// MissingCalls returns the system calls of a step that the kernel, or a filter around this process, does not have.
// Each is called with arguments that the kernel refuses.
func MissingCalls() []string {
	var missing []string
	for _, call := range []struct {
		name string
		try  func() error
	}{
		{"fsopen", func() error { _, err := unix.Fsopen("", -1); return err }},
		{"open_tree", func() error { _, err := unix.OpenTree(-1, "", 0); return err }},
		{"move_mount", func() error { return unix.MoveMount(-1, "", -1, "", 0) }},
		{"mount_setattr", func() error { return unix.MountSetattr(-1, "", 0, &unix.MountAttr{}) }},
		{"openat2", func() error { _, err := unix.Openat2(-1, "", &unix.OpenHow{}); return err }},
		{"close_range", func() error { return unix.CloseRange(1, 0, 0) }},
	} {
		if errors.Is(call.try(), unix.ENOSYS) {
			missing = append(missing, call.name)
		}
	}
	return missing
}

// IDs describes which ids an unprivileged user can have in a user namespace.
type IDs struct {
	User       string // the user's name, or its id if it has none
	UIDs, GIDs int64  // the sizes of its ranges in /etc/subuid and /etc/subgid together
	// UIDTool and GIDTool are the paths of newuidmap and newgidmap, "" if they are not in the PATH.
	UIDTool, GIDTool string
}

// SubordinateIDs returns the IDs of the user with an id of the machine. etc is the directory of subuid and subgid.
func SubordinateIDs(etc string, uid int) IDs {
	ids := IDs{User: cmp.Or(userName(uid), strconv.Itoa(uid))}
	ids.UIDs = total(rangesOf(filepath.Join(etc, "subuid"), uid))
	ids.GIDs = total(rangesOf(filepath.Join(etc, "subgid"), uid))
	ids.UIDTool, _ = exec.LookPath("newuidmap")
	ids.GIDTool, _ = exec.LookPath("newgidmap")
	return ids
}

func total(ranges []sysuser.SubID) int64 {
	var n int64
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

// GainsPrivileges reports whether a program runs with more privileges than its caller: it is setuid, or has
// capabilities of its own.
func GainsPrivileges(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if info.Mode()&os.ModeSetuid != 0 {
		return true, nil
	}
	_, err = unix.Getxattr(path, "security.capability", nil)
	// In a user namespace the kernel does not show the capabilities of the machine's files, but says that they exist.
	return err == nil || errors.Is(err, unix.EOVERFLOW), nil
}

// NoNewPrivileges reports whether programs that this process starts never gain privileges, so that newuidmap does not
// become root.
func NoNewPrivileges() bool {
	n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && n == 1
}

// Hint returns how this machine can allow namespaces.
func Hint() string { return hintNamespaces() }

// CheckRoot returns an *UnavailableError if this process is a root that cannot create sandboxes.
func CheckRoot() error { return checkRoot(Isolated) }

// TryOverlay mounts an overlay as a step does and changes it: it writes a file, removes one of a lower layer and
// replaces a directory. It checks that the upper directory then has what layers are read from: a file, a whiteout and
// an opaque directory. dir is an empty directory on the file system to try.
func TryOverlay(dir string, userXattr bool) error {
	lower, upper, work := filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{filepath.Join(lower, "replaced", "old"), upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(lower, "removed"), []byte("x"), 0o644); err != nil {
		return err
	}
	root, err := overlayMount(Overlay{Lower: []string{lower}, Upper: upper, Work: work}, "", userXattr)
	if own, ok := errors.AsType[*hintError](err); ok {
		return &UnavailableError{What: "mount the layers", Hint: own.hint, Err: own.error}
	}
	if err != nil {
		return unavailable("mount the layers", err)
	}
	defer unix.Close(root)
	if err := changeOverlay(root); err != nil {
		return fmt.Errorf("change an overlay: %w", err)
	}
	return checkUpper(upper, userXattr)
}

// changeOverlay makes the changes of TryOverlay.
func changeOverlay(root int) error {
	fd, err := unix.Openat(root, "written", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("x"))
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return err
	}
	for _, f := range []func() error{
		func() error { return unix.Unlinkat(root, "removed", 0) },
		func() error { return unix.Unlinkat(root, "replaced/old", unix.AT_REMOVEDIR) },
		func() error { return unix.Unlinkat(root, "replaced", unix.AT_REMOVEDIR) },
		func() error { return unix.Mkdirat(root, "replaced", 0o755) },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// checkUpper checks what changeOverlay left.
func checkUpper(upper string, userXattr bool) error {
	if raw, err := os.ReadFile(filepath.Join(upper, "written")); err != nil || string(raw) != "x" {
		return errors.Join(errors.New("a written file is not in the upper directory"), err)
	}
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(upper, "removed"), &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		return errors.Join(errors.New("a removed file is not a whiteout in the upper directory"), err)
	}
	name := "trusted.overlay.opaque"
	if userXattr {
		name = "user.overlay.opaque"
	}
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(filepath.Join(upper, "replaced"), name, value)
	if err != nil || strings.TrimRight(string(value[:n]), "\x00") != "y" {
		return errors.Join(errors.New("a replaced directory is not opaque in the upper directory"), err)
	}
	return nil
}
