package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/imagetest"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// testStep executes a test of an image. It has no outputs: its entry means that the test has passed. A test that
// fails has no entry, so it runs again.
type testStep struct {
	execStep // of a command; else only its keys
	test     *planner.Test
}

func newTestStep(n *node) (*testStep, error) {
	t := &testStep{test: n.step.Test}
	if len(t.test.Command) > 0 {
		x, err := newExecStep(n)
		if err != nil {
			return nil, err
		}
		t.execStep = *x
		t.filledMounts = nil // tests have no cache mounts
		return t, nil
	}
	var err error
	t.keyed, err = newKeyed(n)
	return t, err
}

// run checks the image and stores that the test has passed.
func (t *testStep) run(ctx context.Context) error {
	started := time.Now()
	var err error
	switch {
	case len(t.test.Command) > 0:
		err = t.runCommand(ctx)
	case t.test.Config != nil:
		err = imagetest.CheckConfig(t.test)
	default:
		err = t.n.input(0).read(ctx, func(files tree.FS) error { return imagetest.CheckFile(t.test, testFiles{files}) })
	}
	var step *executor.StepError
	if failed, ok := errors.AsType[*imagetest.Error](err); ok && !errors.As(err, &step) {
		return executor.TestFailed(t.n.step, failed)
	}
	if err != nil {
		return err
	}
	return t.save(ctx, t.finalKey, nil, nil, time.Since(started))
}

// runCommand runs the setup and the command on one root, which is discarded.
func (t *testStep) runCommand(ctx context.Context) (err error) {
	log, err := t.openLog()
	if err != nil {
		return err
	}
	defer log.close()
	s := &execRoot{x: &t.execStep}
	defer func() { err = errors.Join(err, s.discard()) }()
	spec, err := s.spec(ctx)
	if err == nil {
		err = t.overtaken()
	}
	if err != nil {
		return err
	}
	stdout, stderr := log.stream(1, nil), log.stream(2, nil)
	spec.Stdout, spec.Stderr = stdout, stderr
	for _, command := range t.test.Setup {
		if err := s.freshWork(&spec); err != nil {
			return err
		}
		res, err := t.runIn(ctx, spec, command)
		if err != nil {
			return err
		}
		if res.ExitCode != 0 {
			err := fmt.Errorf("setup %s: exit code %d", strings.Join(command, " "), res.ExitCode)
			return t.commandFailed(err, res, log)
		}
	}
	if err := s.freshWork(&spec); err != nil {
		return err
	}
	out, errs := &boundedBuffer{}, &boundedBuffer{}
	spec.Stdout, spec.Stderr = io.MultiWriter(stdout, out), io.MultiWriter(stderr, errs)
	res, err := t.runIn(ctx, spec, t.test.Command)
	if err != nil {
		return err
	}
	if out.over || errs.over {
		return t.commandFailed(fmt.Errorf("the command writes more than %d bytes", imagetest.MaxOutput), res, log)
	}
	err = imagetest.CheckCommand(t.test, imagetest.CommandResult{ExitCode: res.ExitCode, Stdout: out.Bytes(),
		Stderr: errs.Bytes()})
	if err != nil {
		failed := t.commandFailed(err, res, log)
		s.debug(ctx, spec, failed)
		return failed
	}
	return nil
}

func (t *testStep) runIn(ctx context.Context, spec sandbox.Spec, command []string) (sandbox.Result, error) {
	spec.Args = command
	res, err := t.n.b.engine.opts.Runner.Run(ctx, spec)
	if err != nil && ctx.Err() != nil {
		return res, context.Cause(ctx)
	}
	if err != nil {
		return res, fmt.Errorf("run %s: %w", strings.Join(command, " "), err)
	}
	return res, nil
}

func (t *testStep) commandFailed(err error, res sandbox.Result, log *stepLog) *executor.StepError {
	e := executor.TestFailed(t.n.step, err)
	e.Last, e.Log = log.last(), log.path()
	if res.ExitCode != t.test.ExitCode {
		e.Hint = t.exitHint(res, e.Last)
	}
	return e
}

// boundedBuffer keeps at most imagetest.MaxOutput bytes of an output.
type boundedBuffer struct {
	bytes.Buffer
	over bool
}

// Write never fails: excess output is reported when the command has ended.
func (c *boundedBuffer) Write(p []byte) (int, error) {
	if room := imagetest.MaxOutput - c.Len(); len(p) > room {
		c.over = true
		c.Buffer.Write(p[:room])
		return len(p), nil
	}
	return c.Buffer.Write(p)
}

// testFiles adapts a tree to imagetest.Files.
type testFiles struct{ tree.FS }

// Stat implements imagetest.Files.
func (f testFiles) Stat(path string) (imagetest.File, error) {
	at, err := tree.Resolve(f, path, true)
	if err != nil {
		return imagetest.File{}, err
	}
	e, err := f.Lookup(at)
	return imagetest.File{Mode: e.Mode, UID: e.UID, GID: e.GID}, err
}

// Open implements imagetest.Files.
func (f testFiles) Open(path string) (io.ReadCloser, error) {
	at, err := tree.Resolve(f, path, true)
	if err != nil {
		return nil, err
	}
	e, err := f.Lookup(at)
	if err != nil {
		return nil, err
	}
	if !e.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return f.FS.Open(at)
}
