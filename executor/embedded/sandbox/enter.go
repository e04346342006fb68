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

// userStageName is the name under which this program starts itself to get a user namespace.
const userStageName = "bake-userns"

// Enter gives an ordinary user a user namespace in which this program is root, by running it once more in there with the
// same arguments. For root it does nothing. done says that the other process has run to its end, with that exit code, so
// that this one has nothing left to do.
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
		Path: "/proc/self/exe", Args: append([]string{userStageName}, os.Args...), Env: os.Environ(),
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
		return 0, false, unavailable("make a user namespace", err)
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

// mapIDs gives the process its ids: all subordinate ones of the user if the machine has newuidmap, else just one.
func mapIDs(pid int) error {
	uids, gids := subordinate("/etc/subuid"), subordinate("/etc/subgid")
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
			return unavailable("map a user into the namespace", err)
		}
	}
	return nil
}

// subordinate are the ranges that a file of subordinate ids has for this user, by name or number.
func subordinate(file string) []sysuser.SubID {
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
			Hint: "Check the ranges of this user in /etc/subuid and /etc/subgid, and that " + tool + " is setuid root.",
		}
	}
	return nil
}

// runUserStage waits until this process has its ids and then starts the program again: only what a user id of 0 executes
// gets the namespace's capabilities.
func runUserStage() int {
	wait := os.NewFile(configFD, "go")
	if n, err := wait.Read(make([]byte, 1)); n != 1 || err != nil {
		return 125
	}
	wait.Close()
	err := syscall.Exec("/proc/self/exe", os.Args[1:], os.Environ())
	fmt.Fprintln(os.Stderr, "bake: start again in the user namespace:", err)
	return 125
}
