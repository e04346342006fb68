package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/idmap"
)

// initName is the argument 0 with which this program starts itself as the init process of a step.
const initName = "bake-init"

// Descriptors of an init process.
const (
	configFD = 3
	reportFD = 4
)

// An init process does its work while Go initializes packages, and never reaches main. Go initializes the packages of a
// program in the order of their import paths, each as soon as its imports are initialized. So most packages of this
// program are not initialized yet; that would take longer than the whole setup of a step. For the same reason this
// package imports little.
var _ = runAsInit()

// runAsInit does not return in an init process. It runs on the main thread.
func runAsInit() struct{} {
	if len(os.Args) == 0 {
		return struct{}{}
	}
	switch os.Args[0] {
	case initName:
		os.Exit(runInit())
	case userInitName:
		os.Exit(runUserInit())
	case userRootName:
		if !endWithParent() {
			os.Exit(128 + int(unix.SIGKILL))
		}
		os.Args = os.Args[1:]
	case guardName:
		os.Exit(runGuard())
	}
	return struct{}{}
}

// runInit sets up the sandbox of this process and executes the command. It returns only after an error.
func runInit() int {
	runtime.LockOSThread() // restrict changes only this thread, which then executes the command
	report := os.NewFile(reportFD, "report")
	var cfg initConfig
	input := json.NewDecoder(os.NewFile(configFD, "config"))
	if err := input.Decode(&cfg); err != nil {
		return sendReport(report, initReport{Error: wrapSetup("read the step", err).(*setupError)})
	}
	s := &setup{cfg: &cfg, input: input}
	if err := s.run(); errors.Is(err, errAborted) {
		return sendReport(report, initReport{Created: s.created})
	} else if err != nil {
		e, ok := errors.AsType[*setupError](err)
		if !ok {
			e = wrapSetup("set up the step", err).(*setupError)
		}
		return sendReport(report, initReport{Created: s.created, Error: e})
	}
	sendReport(report, initReport{Created: s.created})
	err := execute(cfg.Spec.Args, cfg.Spec.Env)
	e := wrapSetup("exec: "+strings.Join(cfg.Spec.Args[:1], ""), err).(*setupError)
	e.Exec = true
	return sendReport(report, initReport{Error: e})
}

// sendReport sends a report to the parent and returns the exit code of an init process that failed. If sending fails,
// the parent still sees that code.
func sendReport(w *os.File, r initReport) int {
	_ = json.NewEncoder(w).Encode(r)
	return 125
}

// errAborted means that the parent closed the pipe, since it does not want the step to start. It knows the reason.
var errAborted = errors.New("aborted by the parent")

// setup turns an init process into the command of a step.
//
// The processes, each started by the one above it:
//
//	bake         an unprivileged user's start; only runs Enter, forwards signals and waits
//	bake         root, or root in a user namespace; its worker threads start init processes
//	bake-init    process 1 of new mount, pid, ipc, uts and (except Host) network namespaces
//	the command  the same process, after exec
//
// Until restrict, the init process has all capabilities of bake in bake's user namespace: it needs them to mount, to
// create device nodes, to pivot and to load the seccomp filter. Meanwhile it runs no code of the step's root, and the
// kernel follows no link in it for this process, see walk.
//
// The order is the invariant. Mounts become private first, or they would appear on the machine. All of the machine's
// files are opened before the root is attached, and the old root is unmounted before the command starts, or the command
// could reach files of the machine. The parent then permits the start: it sends true after it has moved the process to
// its cgroup and connected its network, or a command could run without its limits. The cgroup namespace is
// created after that, so that its root is the step's own group. The seccomp filter comes before the capabilities are
// dropped, since loading it needs CAP_SYS_ADMIN. The bounding set is reduced before the user changes, since that needs
// CAP_SETPCAP. The parent-death signal is set again after the user changes, because the kernel clears it then; without
// it a step of USER 1000 would outlive a killed bake. All descriptors become close-on-exec last; reports still need
// one.
//
// TestRun shows the capabilities, the filter and the open descriptors of the command, TestRefused what it cannot do,
// TestUser another user, TestLimits the group ("own group" is the namespace), TestNoLimits a start that is not
// permitted, and TestKilledBuild in executor/embedded that the step dies with bake.
type setup struct {
	cfg     *initConfig
	input   *json.Decoder // from the parent
	created []createdMountpoint
	host    hostFiles
	root    int // the mounted root
	walk    *walk
}

// run builds the root, enters it, waits for the permission to start, and drops all privileges that a step must not
// have.
func (s *setup) run() error {
	unix.Umask(0)
	if len(s.cfg.Spec.Args) == 0 {
		return wrapSetup("start the step", errors.New("no command"))
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return wrapMount("make mounts private", err)
	}
	if err := unix.Sethostname([]byte(s.cfg.Spec.Hostname)); err != nil {
		return wrapMount("set the host name", err)
	}
	if s.cfg.Spec.Network != Host {
		if err := loopbackUp(); err != nil {
			return wrapMount("bring up the loopback device", err)
		}
	}
	if err := s.buildRoot(); err != nil {
		return err
	}
	cwd, err := s.workDir()
	if err != nil {
		return err
	}
	if err := s.enter(cwd); err != nil {
		return err
	}
	var permitted bool // the value does not matter
	if err := s.input.Decode(&permitted); err != nil {
		return errAborted
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return wrapMount("create a cgroup namespace", err)
	}
	return s.restrict()
}

// workDir returns the working directory, without links. It creates a missing one and its missing parents, owned by the
// step's user. These are part of the step's result.
func (s *setup) workDir() (string, error) {
	spec := &s.cfg.Spec
	before := len(s.walk.created)
	_, err := s.walk.to(path.Clean("/"+spec.Cwd), true, func(dir int, name string, _ bool) error {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			return err
		}
		err := unix.Fchownat(dir, name, int(spec.UID), int(spec.GID), unix.AT_SYMLINK_NOFOLLOW)
		return idmap.Explain(err, spec.UID, spec.GID)
	})
	for i := range s.walk.created[before:] {
		s.walk.created[before+i].Result = true
	}
	s.created = s.walk.created
	return s.walk.location(), wrapSetup("create working directory "+spec.Cwd, err)
}

// enter makes the root this process's root and unmounts the old one, so that no path leads to the machine's files.
// pivot_root of "." over "." puts the old root on top of the new one, so that it needs no directory in it.
func (s *setup) enter(cwd string) error {
	if err := unix.Fchdir(s.root); err != nil {
		return wrapSetup("enter the root", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return wrapMount("enter the root", withHint(err, hintPivot))
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return wrapMount("unmount the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return wrapSetup("enter the root", err)
	}
	return wrapSetup("enter the working directory", unix.Chdir(cwd))
}

// restrict drops all privileges that the step must not have. The order matters, see setup.
func (s *setup) restrict() error {
	spec := &s.cfg.Spec
	if err := setLimits(spec.Rlimits); err != nil {
		return err
	}
	unix.Umask(0o022)
	for _, f := range s.cfg.Filters {
		if err := loadFilter(f); err != nil {
			return wrapMount("load the system call filter", err)
		}
	}
	caps := defaultCaps
	if spec.Insecure {
		caps = ownCaps()
	}
	if err := dropBounding(caps); err != nil {
		return wrapMount("drop capabilities", err)
	}
	if err := s.become(spec); err != nil {
		return err
	}
	if spec.UID != 0 {
		caps = 0
	}
	if err := setCaps(caps); err != nil {
		return wrapMount("set capabilities", err)
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return wrapMount("set the parent-death signal", err)
	}
	return wrapMount("close descriptors", unix.CloseRange(configFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC))
}

// become changes the user and groups of this thread only. It uses raw system calls where Go's own would change all
// threads.
func (s *setup) become(spec *Spec) error {
	groups := spec.Groups
	if s.cfg.Groups {
		gids := make([]int, len(groups))
		for i, g := range groups {
			gids[i] = int(g)
		}
		if err := unix.Setgroups(gids); err != nil {
			return userError(spec, err)
		}
	}
	uid, gid := uintptr(spec.UID), uintptr(spec.GID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return userError(spec, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return userError(spec, errno)
	}
	return nil
}

// userError returns the error of a failed change of the user. The kernel reports EINVAL for an unmapped id.
func userError(spec *Spec, err error) error {
	user := fmt.Sprintf("user %d:%d", spec.UID, spec.GID)
	if errors.Is(err, unix.EINVAL) {
		return &setupError{What: "set the step's user", Err: idmap.Unmapped(user)}
	}
	return wrapSetup("set the step's "+user, err)
}

// ownCaps returns the capabilities of this process.
func ownCaps() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return defaultCaps
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32
}

// execute executes the command. It looks up a name without a slash in the step's PATH. It returns only after an error.
func execute(args, env []string) error {
	name := args[0]
	if strings.Contains(name, "/") {
		return syscall.Exec(name, args, env)
	}
	found := error(unix.ENOENT)
	for _, dir := range strings.Split(variable(env, "PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		err := syscall.Exec(path.Join(dir, name), args, env)
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			found = err
		}
	}
	return found
}

// variable returns the value of an environment variable. The last entry counts.
func variable(env []string, name string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}
