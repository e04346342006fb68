package embedded

import (
	"context"
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/planner"
)

// wrap adds the step and its place in the Dockerfile to an error.
func (n *node) wrap(err error) error {
	return keys.At(n.step, err)
}

// ended distinguishes a step that was cancelled, because another one failed or the build stopped, from one that
// failed itself.
func (n *node) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return fmt.Errorf("stopped with the build: %w", context.Canceled)
	}
	return n.failed(err)
}

// failed gives an error of a step its final type. Errors of the machine and of registries keep their types. Other
// errors of a file operation become an executor.StepError; those of other steps get the step's place.
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
			err = n.b.store.WriteError(err)
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
	return keys.MachineFault(err)
}

// stepError returns a failure of the user's step, without an exit code.
func (n *node) stepError(err error, hint string) *executor.StepError {
	return &executor.StepError{
		Step: n.step.Name, Targets: n.step.Targets, Source: n.step.Source, ExitCode: -1, Hint: hint, Err: err,
	}
}

// sourceError reports that the files which a step reads could not be read.
func (n *node) sourceError(r readInput, err error) error {
	var edge planner.Edge
	dir := ""
	if !r.in.scratch() {
		edge.Step = r.in.node.step
	}
	if r.in.local() {
		dir = r.in.node.local.Name
	}
	err = keys.ReadError(n.step, r.what, edge, dir, err)
	if step, ok := errors.AsType[*keys.StepError](err); ok {
		return n.stepError(step.Err, step.Hint)
	}
	return err
}

// errMismatch returns the error for content that does not have its digest.
func errMismatch(expected, got digest.Digest) error {
	return fmt.Errorf("digest mismatch: expected %s, got %s", expected, got)
}

// skippedStep reports whether a step did not run because the build stopped.
func skippedStep(err error) bool {
	return errors.Is(err, schedule.ErrSkipped) || errors.Is(err, context.Canceled)
}
