package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"

	sysuser "github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// userInitName is the argument 0 with which this program starts itself in a user namespace.
const userInitName = "bake-userns"

// Enter runs this program again with the same arguments in a user namespace, in which an unprivileged user is root. For
// root it does nothing. done reports that the other process has ended, with the given exit code, so that the caller
// must exit too.
//
// It takes two starts. Enter starts the program as bake-userns in new user and mount namespaces. That process waits
// until its parent has written the id maps, since only a process outside can map more than one id. Then it executes the
// program with its original arguments: a process gets the namespace's capabilities when user id 0 executes a file, and
// without the maps it has no user id 0. The child has its own process group, so the parent forwards the terminal's
// signals. The parent-death signal covers bake-userns only: the kernel clears it when an exec gains capabilities.
func Enter(_ context.Context) (code int, done bool, err error) {
	if os.Geteuid() == 0 {
		return 0, false, nil
	}
	goR, goW, err := os.Pipe()
	if err != nil {
		return 0, false, err
	}
	defer goW.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{userInitName}, os.Args...), Env: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{goR},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL, Setpgid: true,
		},
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGWINCH)
	defer signal.Stop(signals)
	err = errors.Join(cmd.Start(), goR.Close())
	if err != nil {
		return 0, false, unavailable("create a user namespace", err)
	}
	go func() {
		for sig := range signals {
			_ = cmd.Process.Signal(sig) // it may have ended
		}
	}()
	if err := mapIDs(cmd.Process.Pid); err != nil {
		return 0, false, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	if _, err := goW.Write([]byte{1}); err != nil {
		return 0, false, errors.Join(err, ignoreExit(cmd.Wait()))
	}
	return exitCode(cmd)
}

func exitCode(cmd *exec.Cmd) (int, bool, error) {
	if err := ignoreExit(cmd.Wait()); err != nil {
		return 0, false, err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal()), true, nil
	}
	return cmd.ProcessState.ExitCode(), true, nil
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// mapIDs writes the id maps of the process's user namespace. Root in it is this user. The other ids are the user's
// subordinate ids, if there are any and the machine has newuidmap and newgidmap; otherwise there are no other ids.
func mapIDs(pid int) error {
	uids, gids := subordinateIDs("/etc/subuid"), subordinateIDs("/etc/subgid")
	_, uidErr := exec.LookPath("newuidmap")
	_, gidErr := exec.LookPath("newgidmap")
	if uidErr == nil && gidErr == nil && len(uids) > 0 && len(gids) > 0 {
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

// subordinateIDs returns this user's ranges in /etc/subuid or /etc/subgid. An entry names the user by name or number.
func subordinateIDs(file string) []sysuser.SubID {
	uid := strconv.Itoa(os.Geteuid())
	name := ""
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	ranges, err := sysuser.ParseSubIDFileFilter(file, func(s sysuser.SubID) bool {
		return s.Name == uid || name != "" && s.Name == name
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
			What: "map subordinate ids with " + tool, Err: fmt.Errorf("%w: %s", err, out),
			Hint: "Check this user's ranges in /etc/subuid and /etc/subgid, and that " + tool + " is setuid root",
		}
	}
	return nil
}

// runUserInit is the main function of bake-userns, see Enter. It returns only after an error.
func runUserInit() int {
	wait := os.NewFile(configFD, "go")
	if n, err := wait.Read(make([]byte, 1)); n != 1 || err != nil {
		return 125
	}
	wait.Close()
	err := syscall.Exec("/proc/self/exe", os.Args[1:], os.Environ())
	fmt.Fprintln(os.Stderr, "bake: execute the program in the user namespace:", err)
	return 125
}
