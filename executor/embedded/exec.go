package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// execStep executes an exec op: one process in its own root.
type execStep struct {
	keyed
	exec *pb.ExecOp
	root *pb.Mount
	// caches holds the cache mounts that prepare opened, by index of the mount.
	caches map[int]*cache.Mount
}

// newExecStep parses the op.
func newExecStep(n *node) (*execStep, error) {
	k, err := newKeyed(n)
	if err != nil {
		return nil, err
	}
	x := &execStep{keyed: k, exec: n.step.Op.GetExec()}
	x.filledMounts = x.filledHere
	for _, m := range x.exec.GetMounts() {
		if m.GetDest() == pb.RootMount {
			x.root = m
		}
	}
	return x, nil
}

// prepare locks the key, unpacks the layers that the step runs on and opens its cache mounts.
func (x *execStep) prepare(ctx context.Context) (bool, func(), error) {
	found, unlock, err := x.prepareFinal(ctx)
	if err != nil || found {
		return found, nil, err
	}
	release := func() {
		for _, m := range x.caches {
			m.Release()
		}
		x.caches = nil
		unlock()
	}
	if err := x.prepareInputs(ctx); err != nil {
		release()
		return false, nil, err
	}
	if found, err := x.useFilled(ctx); err != nil || found {
		release()
		return found, nil, err
	}
	return false, release, nil
}

// prepareInputs prepares what needs no slot: layers on disk and cache mounts. Cache mounts are locked in the order of
// their ids, so that two steps which share several cannot wait for each other.
func (x *execStep) prepareInputs(ctx context.Context) error {
	for _, m := range x.exec.GetMounts() {
		in := x.n.input(int(m.GetInput()))
		if in.scratch() || in.local() && m.GetDest() != pb.RootMount {
			continue
		}
		c, err := in.chain(ctx)
		if err != nil {
			return err
		}
		if _, err := x.n.b.dirs(ctx, c); err != nil {
			return err
		}
	}
	return x.openCaches(ctx)
}

// run runs the process and stores what it changed.
func (x *execStep) run(ctx context.Context) (err error) {
	log, err := x.openLog()
	if err != nil {
		return err
	}
	defer log.close()
	started := time.Now()
	s := &execRoot{x: x}
	defer s.closeAgents()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.discard())
		}
	}()
	spec, err := s.spec(ctx)
	if err == nil {
		err = x.overtaken()
	}
	if err != nil {
		return err
	}
	stdout, stderr := log.stream(1, s.secrets), log.stream(2, s.secrets)
	spec.Stdout, spec.Stderr = stdout, stderr
	res, err := x.n.b.engine.opts.Runner.Run(ctx, spec)
	_, _ = stdout.Close(), stderr.Close()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("run the step: %w", err)
	}
	if !x.validExit(res.ExitCode) {
		failed := x.exitError(res, log)
		s.debug(ctx, spec, failed)
		return failed
	}
	outputs, err := s.commit(ctx)
	if err != nil {
		return err
	}
	// The id is random: a command that runs again may write other files, so its users need new keys.
	id := key.Of([]key.Part{{Name: "key", Digest: x.finalKey.String()}, {Name: "run", Digest: rand.Text()}})
	return x.save(ctx, id, outputs, nil, time.Since(started))
}

// openLog creates the file for the step's output.
func (x *execStep) openLog() (*stepLog, error) {
	file, err := x.n.b.store.NewLog(x.n.step.Digest)
	if err != nil {
		return nil, err
	}
	x.n.result.Log = file.Name()
	return newStepLog(file, func(stream int, p []byte) { x.n.b.events.log(x.n, stream, p) }), nil
}

// validExit reports whether the step may end with this exit code: 0 unless the op lists others.
func (x *execStep) validExit(code int) bool {
	if valid := x.exec.GetMeta().GetValidExitCodes(); len(valid) > 0 {
		return slices.Contains(valid, int32(code))
	}
	return code == 0
}

// exitError describes a failed command.
func (x *execStep) exitError(res sandbox.Result, log *stepLog) *executor.StepError {
	e := x.n.stepError(nil, "")
	e.ExitCode, e.Last, e.Log = res.ExitCode, log.last(), log.path()
	e.Hint = x.exitHint(res, e.Last)
	return e
}

// exitHint suggests why a command failed, if its exit shows that.
func (x *execStep) exitHint(res sandbox.Result, last []string) string {
	if res.ExitCode == 126 || res.ExitCode == 127 {
		hint := "the command was not found or cannot be executed in the step's file system"
		if arch := x.n.step.Op.GetPlatform().GetArchitecture(); arch != "" && arch != runtime.GOARCH {
			hint += "; the step is for " + arch +
				": to run it here, register an emulator with binfmt_misc, for example by installing qemu-user-static"
		}
		return hint
	}
	if res.Exceeded {
		return "it exceeded the memory limit of the target's resources"
	}
	if hint := x.n.b.store.FullDisk(); hint != "" {
		return hint
	}
	return idmap.Hint(last)
}
