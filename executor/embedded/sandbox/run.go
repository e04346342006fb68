package sandbox

import (
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

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// grace is how long a step that handles SIGTERM may take to end.
const grace = 5 * time.Second

// Sandbox runs processes. What is the same for all of them is made once, when the first one runs.
type Sandbox struct {
	// Grace is how long a cancelled step that handles SIGTERM may take to end; 0 means 5 seconds.
	Grace time.Duration

	// Filters makes the programs that steps' system calls must pass, but for insecure steps; each is the kernel's array of
	// sock_filter. The last one's answer counts first.
	Filters func() ([][]byte, error)

	// Outside connects the steps whose network is Connected. Nil: they are isolated.
	Outside Outside

	// Limiter applies Limits. Nil: there are none.
	Limiter Limiter

	// Idle is how long what is ready for a next step is kept; 0 means 1 second.
	Idle time.Duration

	mu   sync.Mutex
	free []*berth // those that no step has, the one used last at the end

	once    sync.Once
	err     error
	exe     *os.File // this program, on a mount that cannot be written
	filters [][]byte
	inUser  bool // in a user namespace of an ordinary user
	groups  bool // setgroups is allowed
}

// Outside connects the network namespace of a process, which has nothing but its loopback until then. It does so while the
// process is set up; closing what it gives ends all connections.
type Outside interface {
	Attach(pid int) (io.Closer, error)
}

// Limiter puts processes into groups whose members together have limits. The errors say what the machine does not allow.
type Limiter interface {
	// Limit puts one process into a new group.
	Limit(pid int, limits Limits) (Group, error)
	// Standing makes a group of at most so many processes for what the calling thread starts from now on.
	Standing(pids int64) (Standing, error)
}

// Group is the processes of one step. It is closed when they have ended.
type Group interface {
	Exceeded() bool // the limit of memory, so that one was killed
	io.Closer
}

// stageConfig is what the init stage is told, through a pipe: it holds secrets.
type stageConfig struct {
	Spec    Spec
	Points  string
	Filters [][]byte
	InUser  bool
	Groups  bool
}

// stageReport is what the init stage says, just before the command starts.
type stageReport struct {
	Created []point
	Error   *setupError
}

// Run runs one process to its end. The error is about the sandbox, never about the command: how that ended is the Result.
// When ctx is cancelled all processes of the step are gone before Run returns its cause.
func (s *Sandbox) Run(ctx context.Context, spec Spec) (Result, error) {
	s.once.Do(s.prepare)
	if s.err != nil {
		return Result{}, s.err
	}
	cfg := stageConfig{Spec: spec, InUser: s.inUser, Groups: s.groups}
	if !spec.Insecure {
		cfg.Filters = s.filters
	}
	if spec.Points != "" {
		all, err := wantedPoints(&spec)
		if err != nil {
			return Result{}, err
		}
		if cfg.Points, err = pointsLayer(spec.Points, all); err != nil {
			return Result{}, fmt.Errorf("make mount points: %w", err)
		}
	}
	res, report, err := s.start(ctx, cfg)
	if spec.Root.Upper != "" {
		err = errors.Join(err, cleanUpper(spec.Root.Upper, report.Created))
	}
	return res, err
}

// prepare makes what all runs share.
func (s *Sandbox) prepare() {
	if s.filters, s.err = s.Filters(); s.err != nil {
		return
	}
	s.inUser = userns.RunningInUserNS()
	raw, err := os.ReadFile("/proc/self/setgroups")
	s.groups = err != nil || strings.TrimSpace(string(raw)) != "deny"
	s.exe, s.err = protectedSelf()
}

// protectedSelf opens this program in a way that no step can write through, should it find the file behind its own first
// process: on a read-only mount of its own, or as a sealed copy in memory.
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
	// A descriptor that can be written to would make its execution fail as busy.
	ro, err := os.Open(fdPath(fd))
	return ro, errors.Join(err, to.Close())
}

// start has a stage become the step, and waits for its end.
func (s *Sandbox) start(ctx context.Context, cfg stageConfig) (Result, stageReport, error) {
	if ctx.Err() != nil {
		return Result{}, stageReport{}, context.Cause(ctx)
	}
	b := s.berth(cfg.Spec.Limits.Pids)
	defer b.leave()
	if t := cfg.Spec.Terminal; t != nil { // of no stage that was started before
		p, err := b.begin(cfg.Spec.Network, t)
		if err != nil {
			return Result{}, stageReport{}, err
		}
		return s.tell(ctx, b, p, cfg)
	}
	p, ready, err := b.stage(cfg.Spec.Network)
	if err != nil {
		return Result{}, stageReport{}, err
	}
	res, report, err := s.tell(ctx, b, p, cfg)
	if ready && errors.Is(err, unix.EPIPE) && len(report.Created) == 0 && report.Error == nil && ctx.Err() == nil {
		// A stage that had ended while it waited, for want of memory perhaps.
		if p, err = b.begin(cfg.Spec.Network, nil); err != nil {
			return Result{}, stageReport{}, err
		}
		return s.tell(ctx, b, p, cfg)
	}
	return res, report, err
}

// tell tells a stage what to become, and waits for its end.
func (s *Sandbox) tell(ctx context.Context, b *berth, p *process, cfg stageConfig) (Result, stageReport, error) {
	stop := context.AfterFunc(ctx, func() { s.end(p.cmd.Process) })
	defer stop()
	p.output(cfg.Spec.Stdout, cfg.Spec.Stderr)
	reports := make(chan stageReport, 1)
	go func() { reports <- readReport(p.report, b.prepare) }()
	var ties ties
	defer ties.cut()
	sendErr := s.instruct(p, cfg, b.pids, &ties)
	waitErr := p.wait()
	report := <-reports
	if ctx.Err() != nil {
		return Result{}, report, context.Cause(ctx)
	}
	if unavailable, ok := errors.AsType[*UnavailableError](sendErr); ok && report.Error == nil {
		return Result{}, report, unavailable
	}
	res, err := outcome(p.cmd, waitErr, report, cfg.Spec.Stderr)
	res.Exceeded = ties.group != nil && ties.group.Exceeded()
	if err == nil && report.Error == nil {
		err = sendErr
	}
	return res, report, err
}

// ties are what a step is bound to outside of its namespaces.
type ties struct {
	group   Group
	network io.Closer
}

func (t *ties) cut() {
	if t.network != nil {
		_ = t.network.Close()
	}
	if t.group != nil {
		_ = t.group.Close() // one that stays is removed by a later process
	}
}

// instruct tells the stage what to do, and limits and connects it meanwhile. The pipe is closed in any case, which ends a
// stage that waits for more.
func (s *Sandbox) instruct(p *process, cfg stageConfig, pids int64, t *ties) error {
	e := json.NewEncoder(p.config)
	err := e.Encode(cfg)
	if err == nil {
		if cfg.Spec.Limits.Pids == pids {
			cfg.Spec.Limits.Pids = 0
		}
		err = s.tie(p.cmd.Process.Pid, &cfg.Spec, t)
	}
	if err == nil {
		err = e.Encode(true)
	}
	return errors.Join(err, p.config.Close())
}

// tie limits and connects a process, side by side: each waits for the kernel most of its time.
func (s *Sandbox) tie(pid int, spec *Spec, t *ties) error {
	limited := make(chan error, 1)
	go func() { limited <- s.limit(pid, spec, t) }()
	err := s.connect(pid, spec, t)
	return errors.Join(<-limited, err)
}

func (s *Sandbox) limit(pid int, spec *Spec, t *ties) (err error) {
	if s.Limiter == nil || spec.Limits == (Limits{}) {
		return nil
	}
	if t.group, err = s.Limiter.Limit(pid, spec.Limits); err != nil && spec.Limits.asked() {
		return &UnavailableError{What: "limit the step's resources", Hint: hintLimits, Err: err}
	}
	return nil
}

func (s *Sandbox) connect(pid int, spec *Spec, t *ties) (err error) {
	if s.Outside == nil || spec.Network != Connected {
		return nil
	}
	if t.network, err = s.Outside.Attach(pid); err != nil {
		return &UnavailableError{What: "give the step a network", Hint: hintNetwork, Err: err}
	}
	return nil
}

// readReport reads what the stage says: a report, and an error if one came after it. It calls started once the command was.
func readReport(r io.ReadCloser, started func()) stageReport {
	defer r.Close()
	var all stageReport
	d := json.NewDecoder(io.LimitReader(r, 4<<20))
	for i := 0; ; i++ {
		var next stageReport
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

// outcome turns the end of the process into a result. A command that could not be started is told in the step's output, as
// a shell does.
func outcome(cmd *exec.Cmd, waitErr error, report stageReport, stderr io.Writer) (Result, error) {
	if e := report.Error; e != nil {
		if !e.Exec {
			if e.Refused {
				return Result{}, unavailable(e.What, errors.New(e.Err))
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

func unavailable(what string, err error) error {
	if !refused(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // the path is that of a descriptor
	}
	return &UnavailableError{What: what, Hint: hintNamespaces, Err: err}
}

// end ends a step. The first process of a pid namespace gets no signal that it does not handle, so a step that handles
// none is killed at once; the kernel ends all others with it.
func (s *Sandbox) end(p *os.Process) {
	if handlesTerm(p.Pid) && p.Signal(unix.SIGTERM) == nil {
		wait := s.Grace
		if wait == 0 {
			wait = grace
		}
		time.AfterFunc(wait, func() { _ = p.Kill() }) // does nothing once the process was waited for
		return
	}
	_ = p.Kill()
}

// handlesTerm says whether a process has a handler for SIGTERM.
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
