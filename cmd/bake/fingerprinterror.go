package main

import (
	"errors"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/keys"
)

// fingerprintError turns a fault of the user's step that fingerprints found into an executor.StepError, so that its
// exit code and message are those of a build.
func fingerprintError(err error) error {
	e, ok := errors.AsType[*keys.StepError](err)
	if !ok {
		return err
	}
	return &executor.StepError{
		Step: e.Step.Name, Targets: e.Step.Targets, Source: e.Step.Source, ExitCode: -1, Hint: e.Hint, Err: e.Err,
	}
}
