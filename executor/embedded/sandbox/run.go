package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/idmap"
)

// grace is the default of Sandbox.Grace.
const grace = 5 * time.Second

// Sandbox runs processes. Its methods may be called at the same time. The fields must not change after the first Run.
type Sandbox struct {
	// Grace is how long a cancelled step that handles SIGTERM may take to end; 0 means 5 seconds. Then it is killed.
	Grace time.Duration

	// Filters returns the seccomp filters of all steps except insecure ones. Each is an array of the kernel's struct
	// sock_filter. They are loaded in order, and the kernel applies the strictest result; see package seccomp.
	Filters func() ([][]byte, error)

	// Outside connects steps whose network is Connected. If nil, they are isolated.
	Outside Outside

	// Limiter applies Limits. If nil, there are no limits.
	Limiter Limiter

	// Idle is how long an idle worker and its pre-started init process are kept; 0 means 1 second.
	Idle time.Duration

	mu    sync.Mutex
	free  []*worker // idle workers; the last one was used last
	busy  int       // workers that run a step
	guard *guard    // nil: there is none yet

	once    sync.Once
	err     error
	exe     *os.File // this program, read-only; see protectedSelf
	filters [][]byte
	inUser  bool // this process is in a user namespace
	groups  bool // setgroups is allowed
}

// Outside connects network namespaces to the outside.
type Outside interface {
	// Attach connects the network namespace of a process, which has only a loopback device. Closing the result ends all
	// connections. It is called while the init process sets up the root.
	Attach(pid int) (io.Closer, error)
}

// Limiter creates cgroups. An error means that the machine does not allow it.
type Limiter interface {
	// Limit moves a process to a new group.
	Limit(pid int, limits Limits) (Group, error)
	// WorkerGroup creates a group of at most pids processes and threads, for processes that the calling thread starts.
	WorkerGroup(pids int64) (WorkerGroup, error)
}

// Group is the cgroup of one step. It is closed after the step's processes have ended.
type Group interface {
	// Exceeded reports whether the kernel killed a process of the group for its memory limit.
	Exceeded() bool
	io.Closer
}

// initConfig is the input of an init process. It goes through a pipe, not through arguments or the environment, because
// it holds secrets.
type initConfig struct {
	Spec            Spec
	MountpointLayer string // "" if there is none
	Filters         [][]byte
	InUser          bool // see Sandbox
	Groups          bool // see Sandbox
}

// initReport is the output of an init process. The process sends one before it executes the command, and another one
// with an Error if that fails.
type initReport struct {
	Created []createdMountpoint
	Error   *setupError
}

// Run runs one process to its end. An error is about the sandbox; how the command ended is in the Result. If ctx is
// cancelled, Run returns the cause after all processes of the step have ended.
func (s *Sandbox) Run(ctx context.Context, spec Spec) (Result, error) {
	s.once.Do(s.initialize)
	if s.err != nil {
		return Result{}, s.err
	}
	if err := checkRoot(spec.Network); err != nil {
		return Result{}, err
	}
	cfg := initConfig{Spec: spec, InUser: s.inUser, Groups: s.groups}
	if !spec.Insecure {
		cfg.Filters = s.filters
	}
	if spec.MountpointDir != "" {
		all, err := specMountpoints(&spec)
		if err != nil {
			return Result{}, err
		}
		if cfg.MountpointLayer, err = mountpointLayer(spec.MountpointDir, all); err != nil {
			return Result{}, fmt.Errorf("create the layer of mountpoints: %w", err)
		}
	}
	res, report, err := s.start(ctx, cfg)
	if spec.Root.Upper != "" {
		err = errors.Join(err, removeMountpoints(spec.Root.Upper, report.Created))
	}
	return res, err
}

// initialize sets the fields that all runs share.
func (s *Sandbox) initialize() {
	if s.filters, s.err = s.Filters(); s.err != nil {
		return
	}
	s.inUser = idmap.InNamespace()
	raw, err := os.ReadFile("/proc/self/setgroups")
	s.groups = err != nil || strings.TrimSpace(string(raw)) != "deny"
	s.exe, s.err = protectedSelf()
}

// protectedSelf opens this program so that no step can write to it: from a read-only bind mount or, where that is not
// allowed, as a sealed copy in memory. A step can reach the file of its init process through /proc/self/exe; if it
// could write to it, it would replace the program that root runs next (CVE-2019-5736). TestSelf shows it.
func protectedSelf() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		if err = setAttrs(fd, attrReadonly); err == nil {
			return os.NewFile(uintptr(fd), "self"), nil
		}
		unix.Close(fd)
	}
	return sealedSelf()
}

// sealedSelf copies this program to a memfd that cannot be changed.
func sealedSelf() (*os.File, error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("bake", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	to := os.NewFile(uintptr(fd), "self")
	if _, err := io.Copy(to, from); err != nil {
		return nil, errors.Join(err, to.Close())
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(to.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(err, to.Close())
	}
	// While a descriptor is open for writing, executing the file fails with ETXTBSY.
	ro, err := os.Open(fdPath(fd))
	return ro, errors.Join(err, to.Close())
}

// start runs the step in a worker. A pre-started init process may have died while it waited, for example because the
// machine had no memory. Sending it the step then fails with EPIPE, and start tries once more with a new one. The
// command cannot have run at that point, because the process did not receive the permission to start it, see setup.
func (s *Sandbox) start(ctx context.Context, cfg initConfig) (Result, initReport, error) {
	if ctx.Err() != nil {
		return Result{}, initReport{}, context.Cause(ctx)
	}
	w := s.worker(cfg.Spec.Limits.Pids)
	defer w.release()
	if t := cfg.Spec.Terminal; t != nil { // a pre-started process does not have this terminal
		p, err := w.newInitProcess(cfg.Spec.Network, t)
		if err != nil {
			return Result{}, initReport{}, err
		}
		return s.runIn(ctx, w, p, cfg)
	}
	p, prestarted, err := w.initProcess(cfg.Spec.Network)
	if err != nil {
		return Result{}, initReport{}, err
	}
	res, report, err := s.runIn(ctx, w, p, cfg)
	noReport := len(report.Created) == 0 && report.Error == nil
	if prestarted && errors.Is(err, unix.EPIPE) && noReport && ctx.Err() == nil {
		if p, err = w.newInitProcess(cfg.Spec.Network, nil); err != nil {
			return Result{}, initReport{}, err
		}
		return s.runIn(ctx, w, p, cfg)
	}
	return res, report, err
}

// runIn runs the step in an init process and waits for its end. As soon as the command runs, the worker pre-starts the
// init process of its next step.
func (s *Sandbox) runIn(ctx context.Context, w *worker, p *process, cfg initConfig) (Result, initReport, error) {
	stop := context.AfterFunc(ctx, func() { s.end(p.cmd.Process) })
	defer stop()
	p.output(cfg.Spec.Stdout, cfg.Spec.Stderr)
	reports := make(chan initReport, 1)
	go func() { reports <- readReport(p.report, w.prestart) }()
	var host hostResources
	defer host.close()
	sendErr := s.send(p, cfg, w.pids, &host)
	waitErr := p.wait()
	report := <-reports
	if ctx.Err() != nil {
		return Result{}, report, context.Cause(ctx)
	}
	if unavailable, ok := errors.AsType[*UnavailableError](sendErr); ok && report.Error == nil {
		return Result{}, report, unavailable
	}
	res, err := outcome(p.cmd, waitErr, report, cfg.Spec.Stderr)
	res.Exceeded = host.group != nil && host.group.Exceeded()
	if err == nil && report.Error == nil {
		err = sendErr
	}
	return res, report, err
}

// hostResources holds what a step has outside of its namespaces. Either may be nil.
type hostResources struct {
	group   Group
	network io.Closer
}

func (h *hostResources) close() {
	if h.network != nil {
		_ = h.network.Close()
	}
	if h.group != nil {
		_ = h.group.Close() // a group that remains is removed by a later process
	}
}

// send sends the step to the init process. While that sets up the root, send applies the limits and connects the
// network. Then it sends true, which permits the command to start. It always closes the pipe: after an error, that
// makes the init process end without starting the command. pids is the limit of the worker's group, which applies to
// the process already.
func (s *Sandbox) send(p *process, cfg initConfig, pids int64, h *hostResources) error {
	e := json.NewEncoder(p.config)
	err := e.Encode(cfg)
	if err == nil {
		if cfg.Spec.Limits.Pids == pids {
			cfg.Spec.Limits.Pids = 0
		}
		err = s.connectAndLimit(p.cmd.Process.Pid, &cfg.Spec, h)
	}
	if err == nil {
		err = e.Encode(true)
	}
	return errors.Join(err, p.config.Close())
}

// connectAndLimit does both at the same time, because each mostly waits for the kernel.
func (s *Sandbox) connectAndLimit(pid int, spec *Spec, h *hostResources) error {
	limited := make(chan error, 1)
	go func() { limited <- s.limit(pid, spec, h) }()
	err := s.connect(pid, spec, h)
	return errors.Join(<-limited, err)
}

// limit applies the step's limits. If the machine does not allow it, that is an error only for required limits.
func (s *Sandbox) limit(pid int, spec *Spec, h *hostResources) (err error) {
	if s.Limiter == nil || spec.Limits == (Limits{}) {
		return nil
	}
	if h.group, err = s.Limiter.Limit(pid, spec.Limits); err != nil && spec.Limits.required() {
		return &UnavailableError{What: "limit the step's resources", Hint: hintLimits, Err: err}
	}
	return nil
}

func (s *Sandbox) connect(pid int, spec *Spec, h *hostResources) (err error) {
	if s.Outside == nil || spec.Network != Connected {
		return nil
	}
	if h.network, err = s.Outside.Attach(pid); err != nil {
		return &UnavailableError{What: "connect the step's network", Hint: hintNetwork, Err: err}
	}
	return nil
}

// readReport reads the reports of the init process until the pipe is closed, and joins them. The pipe is close-on-exec.
// So its end after exactly one report without an error means that the command was executed; then readReport calls
// started.
func readReport(r io.ReadCloser, started func()) initReport {
	defer r.Close()
	var all initReport
	d := json.NewDecoder(io.LimitReader(r, 4<<20))
	for i := 0; ; i++ {
		var next initReport
		if err := d.Decode(&next); err != nil {
			if i == 1 && all.Error == nil {
				started()
			}
			return all
		}
		all.Created = append(all.Created, next.Created...)
		if next.Error != nil {
			all.Error = next.Error
		}
	}
}

// outcome returns the result of a process that ended. If the command could not be started, it writes the reason to the
// step's output, and returns exit code 127 (not found) or 126, as a shell does.
func outcome(cmd *exec.Cmd, waitErr error, report initReport, stderr io.Writer) (Result, error) {
	if e := report.Error; e != nil {
		if !e.Exec {
			if e.Refused {
				hint := cmp.Or(e.Hint, hintNamespaces())
				return Result{}, &UnavailableError{What: e.What, Hint: hint, Err: errors.New(e.Err)}
			}
			return Result{}, e
		}
		if stderr != nil {
			if _, err := fmt.Fprintf(stderr, "%s: %s\n", e.What, e.Err); err != nil {
				return Result{}, err
			}
		}
		if e.Errno == int(unix.ENOENT) {
			return Result{ExitCode: 127}, nil
		}
		return Result{ExitCode: 126}, nil
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return Result{}, fmt.Errorf("wait for the step: %w", waitErr)
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return Result{}, fmt.Errorf("read the step's output: %w", waitErr)
	}
	if status.Signaled() {
		return Result{ExitCode: 128 + int(status.Signal()), Signal: int(status.Signal())}, nil
	}
	return Result{ExitCode: status.ExitStatus()}, nil
}

// unavailable returns an error for a failed operation. It is an UnavailableError if the machine does not allow the
// operation, or has too little of something for it.
func unavailable(what string, err error) error {
	lacks := shortage(err)
	if !refused(err) && lacks == "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // the path is only a descriptor in /proc
	}
	if lacks != "" {
		return &UnavailableError{What: what, Hint: lacks, Err: err}
	}
	return &UnavailableError{What: what, Hint: hintNamespaces(), Err: err}
}

// end ends a step. The first process of a pid namespace receives only signals that it handles. So a step that does not
// handle SIGTERM is killed at once; waiting for it would only delay Ctrl-C. The kernel then kills the namespace's other
// processes. TestCancel shows the four cases.
func (s *Sandbox) end(p *os.Process) {
	if handlesTerm(p.Pid) && p.Signal(unix.SIGTERM) == nil {
		wait := s.Grace
		if wait == 0 {
			wait = grace
		}
		time.AfterFunc(wait, func() { _ = p.Kill() }) // does nothing after Wait has returned
		return
	}
	_ = p.Kill()
}

// handlesTerm reports whether a process has a handler for SIGTERM.
func handlesTerm(pid int) bool {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(raw)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && bits&(1<<(unix.SIGTERM-1)) != 0
		}
	}
	return false
}
