package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// wrap adds the step and its place in the Dockerfile to an error.
func (n *node) wrap(err error) error {
	var placed *placedError
	if errors.As(err, &placed) {
		return err // it already names the step where it occurred
	}
	var b strings.Builder
	if len(n.step.Targets) > 0 {
		fmt.Fprintf(&b, "target %s: ", n.step.Targets[0])
	}
	if at := executor.Place(n.step.Source); at != "" {
		b.WriteString(at + ": ")
	}
	return &placedError{b.String() + n.step.Name, err}
}

// placedError is an error with the step at which it occurred.
type placedError struct {
	at  string
	err error
}

// Error implements error.
func (e *placedError) Error() string { return e.at + ": " + e.err.Error() }

// Unwrap is the cause.
func (e *placedError) Unwrap() error { return e.err }

// ended distinguishes a step that was cancelled, because another one failed or the build stopped, from one that
// failed itself.
func (n *node) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return fmt.Errorf("stopped with the build: %w", context.Canceled)
	}
	return n.failed(err)
}

// failed gives an error of a step its final type. Errors of the machine and of registries keep their types; errors of
// the user's step become an executor.StepError.
func (n *node) failed(err error) error {
	var step *executor.StepError
	switch {
	case errors.As(err, &step), errors.Is(err, schedule.ErrStale):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case machineFault(err):
		var known *cache.Error
		if cache.DiskFull(err) && !errors.As(err, &known) {
			err = &cache.Error{Op: "write to", Path: n.b.store.Dir(), Err: err}
		}
		return n.wrap(err)
	}
	if _, ok := n.op.(*fileStep); ok {
		return n.stepError(err, "")
	}
	return n.wrap(err)
}

// machineFault reports whether an error is the cache's, a registry's or the system's rather than the step's.
func machineFault(err error) bool {
	var (
		store *cache.Error
		reg   *registry.Error
		box   *sandbox.UnavailableError
	)
	if errors.As(err, &store) || errors.As(err, &reg) || errors.As(err, &box) {
		return true
	}
	for _, no := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE,
	} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// stepError returns a failure of the user's step, without an exit code.
func (n *node) stepError(err error, hint string) *executor.StepError {
	return &executor.StepError{
		Step: n.step.Name, Targets: n.step.Targets, Source: n.step.Source, ExitCode: -1, Hint: hint, Err: err,
	}
}

// sourceError reports that the files which a step reads could not be read.
func (n *node) sourceError(r readInput, err error) error {
	var missing *tree.NotFoundError
	if !errors.As(err, &missing) {
		return fmt.Errorf("read %s: %w", r.what, err)
	}
	if r.in.local() {
		where := r.in.node.local.dir
		return n.stepError(fmt.Errorf("%s is not in the build context %s", missing.Path, where),
			"check the path, and that .dockerignore does not exclude it")
	}
	from := "an empty file system"
	if !r.in.scratch() {
		from = r.in.node.step.Name
	}
	return n.stepError(fmt.Errorf("%s is not in %s", missing.Path, from),
		"check the path and the stage that it is copied from")
}

// skippedStep reports whether a step did not run because the build stopped.
func skippedStep(err error) bool {
	return errors.Is(err, schedule.ErrSkipped) || errors.Is(err, context.Canceled)
}
