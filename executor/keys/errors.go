package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// StepError reports a fault of the user's own step, such as a COPY of a missing file. It has only what is known without
// running the step; executor.StepError is what engines report to users.
type StepError struct {
	Step *planner.Step
	Err  error
	Hint string // what the user can do; may be empty
}

// Error implements error.
func (e *StepError) Error() string {
	text := At(e.Step, e.Err).Error()
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// placedError is an error with the step at which it occurred.
type placedError struct {
	at  string
	err error
}

// Error implements error.
func (e *placedError) Error() string { return e.at + ": " + e.err.Error() }

// Unwrap returns the cause.
func (e *placedError) Unwrap() error { return e.err }

// At wraps err with the step's target, location and name. An error that names a step already is returned unchanged.
func At(s *planner.Step, err error) error {
	var placed *placedError
	if errors.As(err, &placed) {
		return err
	}
	var b strings.Builder
	if len(s.Targets) > 0 {
		fmt.Fprintf(&b, "target %s: ", s.Targets[0])
	}
	if len(s.Source) > 0 {
		fmt.Fprintf(&b, "%s:%d: ", s.Source[0].File, s.Source[0].Start)
	}
	return &placedError{b.String() + s.Name, err}
}

// ReadError reports that files which a step reads could not be read. in is where they were looked for; dir is the name
// of a build context, else "".
func ReadError(s *planner.Step, what string, in planner.Edge, dir string, err error) error {
	var missing *tree.NotFoundError
	if !errors.As(err, &missing) {
		return fmt.Errorf("read %s: %w", what, err)
	}
	if dir != "" {
		hint := "check the path, and that .dockerignore does not exclude it"
		if strings.Contains(dir, "://") { // the ignore file of a URL does not count
			hint = "check the path"
		}
		return &StepError{s, fmt.Errorf("%s is not in the build context %s", missing.Path, dir), hint}
	}
	from := "an empty file system"
	if in.Step != nil {
		from = in.Step.Name
	}
	return &StepError{s, fmt.Errorf("%s is not in %s", missing.Path, from),
		"check the path and the stage that it is copied from"}
}

// MachineFault reports whether an error is the system's rather than the step's.
func MachineFault(err error) bool {
	for _, no := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE,
	} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// failed adds the step to an error of a fingerprint. An error of a file operation becomes a StepError, except for
// system errors such as ENOSPC.
func failed(s *planner.Step, err error) error {
	var step *StepError
	switch {
	case errors.As(err, &step), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, tree.ErrChanged):
		return err
	case s.Op.GetFile() != nil && !MachineFault(err):
		return &StepError{Step: s, Err: err}
	}
	return At(s, err)
}
