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
)

// stageName is the name under which this program starts itself to become a step.
const stageName = "bake-init"

// Descriptors of the init stage.
const (
	configFD = 3
	reportFD = 4
)

// A process that is to become a step does so while packages are initialised, and gets no further. Go initialises packages in
// the order of their import paths as soon as what they import is, so that the many packages of this program that a step
// has no use for are still to come; they take longer than all that the stage does.
var _ = becomeStage()

func becomeStage() struct{} {
	if len(os.Args) == 0 {
		return struct{}{}
	}
	switch os.Args[0] {
	case stageName:
		os.Exit(runStage())
	case userStageName:
		os.Exit(runUserStage())
	}
	return struct{}{}
}

// runStage sets up the sandbox around this process and turns it into the command. It returns only when that failed.
func runStage() int {
	runtime.LockOSThread()
	report := os.NewFile(reportFD, "report")
	var cfg stageConfig
	words := json.NewDecoder(os.NewFile(configFD, "config"))
	if err := words.Decode(&cfg); err != nil {
		return tell(report, stageReport{Error: stageError("read the step", err).(*setupError)})
	}
	st := &stage{cfg: &cfg, words: words}
	if err := st.setUp(); errors.Is(err, errGivenUp) {
		return tell(report, stageReport{Created: st.created})
	} else if err != nil {
		e, ok := errors.AsType[*setupError](err)
		if !ok {
			e = stageError("set up the step", err).(*setupError)
		}
		return tell(report, stageReport{Created: st.created, Error: e})
	}
	tell(report, stageReport{Created: st.created})
	err := execute(cfg.Spec.Args, cfg.Spec.Env)
	e := stageError("exec: "+strings.Join(cfg.Spec.Args[:1], ""), err).(*setupError)
	e.Exec = true
	return tell(report, stageReport{Error: e})
}

func tell(w *os.File, r stageReport) int {
	_ = json.NewEncoder(w).Encode(r) // the parent sees the exit code if this fails
	return 125
}

// errGivenUp means that the parent knows why the step does not start.
var errGivenUp = errors.New("the parent gave up")

// stage is the set-up of one step, in its own process.
type stage struct {
	cfg     *stageConfig
	words   *json.Decoder // from the parent
	created []point
	host    hostFiles
	root    int // the mounted root
	walk    *walk
}

// setUp builds the root, enters it, and gives up all that a step may not have.
func (s *stage) setUp() error {
	unix.Umask(0)
	if len(s.cfg.Spec.Args) == 0 {
		return stageError("start the step", errors.New("it has no command"))
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return mountRefused("make mounts private", err)
	}
	if err := unix.Sethostname([]byte(s.cfg.Spec.Hostname)); err != nil {
		return stageError("set the host name", err)
	}
	if s.cfg.Spec.Network != Host {
		if err := loopbackUp(); err != nil {
			return stageError("start the loopback", err)
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
	// The parent says so when limits are set and the network is connected.
	var ready bool
	if err := s.words.Decode(&ready); err != nil {
		return errGivenUp
	}
	// Only now, so that the step's own group is all that it sees.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return mountRefused("make a control group namespace", err)
	}
	return s.restrict()
}

// workDir makes the working directory where it is missing; it and its new parents belong to the user.
func (s *stage) workDir() (string, error) {
	spec := &s.cfg.Spec
	before := len(s.walk.created)
	_, err := s.walk.to(path.Clean("/"+spec.Cwd), true, func(dir int, name string, _ bool) error {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			return err
		}
		return unix.Fchownat(dir, name, int(spec.UID), int(spec.GID), unix.AT_SYMLINK_NOFOLLOW)
	})
	for i := range s.walk.created[before:] {
		s.walk.created[before+i].Owned = true
	}
	s.created = s.walk.created
	return s.walk.here(), stageError("working directory "+spec.Cwd, err)
}

// enter makes the root that of this process; nothing of the machine's files stays in reach.
func (s *stage) enter(cwd string) error {
	if err := unix.Fchdir(s.root); err != nil {
		return stageError("enter the root", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return mountRefused("enter the root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return mountRefused("leave the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return stageError("enter the root", err)
	}
	return stageError("enter the working directory", unix.Chdir(cwd))
}

// restrict gives up what a step may not have. The filter comes first, while it is still allowed to be set.
func (s *stage) restrict() error {
	spec := &s.cfg.Spec
	if err := setLimits(spec.Rlimits); err != nil {
		return err
	}
	unix.Umask(0o022)
	for _, f := range s.cfg.Filters {
		if err := loadFilter(f); err != nil {
			return mountRefused("load the system call filter", err)
		}
	}
	caps := defaultCaps
	if spec.Insecure {
		caps = ownCaps()
	}
	if err := dropBounding(caps); err != nil {
		return stageError("drop capabilities", err)
	}
	if err := s.become(spec); err != nil {
		return err
	}
	if spec.UID != 0 {
		caps = 0
	}
	if err := setCaps(caps); err != nil {
		return stageError("set capabilities", err)
	}
	// A change of user clears this; it belongs to the thread that executes the command.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return stageError("tie the step to its parent", err)
	}
	return stageError("close descriptors", unix.CloseRange(configFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC))
}

// become changes user and groups of this thread alone, which is the one that executes the command.
func (s *stage) become(spec *Spec) error {
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
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(spec.GID), uintptr(spec.GID), uintptr(spec.GID)); errno != 0 {
		return userError(spec, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(spec.UID), uintptr(spec.UID), uintptr(spec.UID)); errno != 0 {
		return userError(spec, errno)
	}
	return nil
}

func userError(spec *Spec, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return stageError(fmt.Sprintf("become user %d:%d", spec.UID, spec.GID), errors.New("this id does not exist in the "+
			"user namespace: it needs subordinate ids (newuidmap, and entries of this user in /etc/subuid and /etc/subgid)"))
	}
	return stageError(fmt.Sprintf("become user %d:%d", spec.UID, spec.GID), err)
}

// ownCaps are all capabilities that this process has.
func ownCaps() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return defaultCaps
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32
}

// execute becomes the command. A name without a slash is looked up in the step's own PATH.
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

// variable is the last value of a variable.
func variable(env []string, name string) string {
	value := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}
