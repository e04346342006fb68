package buildkitd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// explain gives an error of a build that is about a step its final form; nil when it is about none.
func (b *batch) explain(err error) error {
	var vertex *errdefs.VertexError
	if !errors.As(err, &vertex) {
		return nil
	}
	step := b.builder.defs.steps[digest.Digest(vertex.Digest)]
	if step == nil {
		return nil
	}
	return b.stepFailed(step, err)
}

// stepFailed is the failure of a step with its place and its output.
func (b *batch) stepFailed(step *planner.Step, err error) error {
	if step.Op.GetExec() == nil && step.Op.GetFile() == nil {
		return &Error{b.builder.Address, fmt.Errorf("%s%s: %w", at(step), step.Name, plain(err))}
	}
	failed := &executor.StepError{
		Step: step.Name, Targets: step.Targets, Source: step.Source, Last: b.run.status.lines(step.Digest),
	}
	if failed.ExitCode = exitCode(err); failed.ExitCode < 0 {
		failed.Err = plain(err)
	}
	return failed
}

// exitCode is the one that an error tells, as a type or, from the status, as text; -1 when it tells none.
func exitCode(err error) int {
	var exit *gatewaypb.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode == gatewaypb.UnknownExitStatus {
			return -1
		}
		return int(exit.ExitCode)
	}
	var told vertexError
	if errors.As(err, &told) {
		_, code, ok := strings.Cut(string(told), "did not complete successfully: exit code: ")
		if n, err := strconv.Atoi(code); ok && err == nil {
			return n
		}
	}
	return -1
}

// at is the target and place of a step, for the beginning of an error.
func at(step *planner.Step) string {
	var b strings.Builder
	if len(step.Targets) > 0 {
		fmt.Fprintf(&b, "target %s: ", step.Targets[0])
	}
	if place := executor.Place(step.Source); place != "" {
		b.WriteString(place + ": ")
	}
	return b.String()
}

// plainError is a daemon's error without the words that its layers put around it.
type plainError struct {
	text string
	err  error
}

// Error implements error.
func (e *plainError) Error() string { return e.text }

// Unwrap is the whole error.
func (e *plainError) Unwrap() error { return e.err }

func plain(err error) error {
	text := err.Error()
	noise := []string{"rpc error: code = ", "failed to solve: ", "failed to compute cache key: ", "failed to calculate checksum of ref ", "process "}
	for again := true; again; {
		again = false
		for _, n := range noise[:3] {
			if i := strings.Index(text, n); i >= 0 && i < 40 {
				text = text[i+len(n):]
				if rest, ok := cutCode(n, text); ok {
					text = rest
				}
				again = true
			}
		}
	}
	return &plainError{text, err}
}

// cutCode takes "Unknown desc = " from the text of a gRPC error.
func cutCode(prefix, text string) (string, bool) {
	if !strings.HasPrefix(prefix, "rpc error") {
		return "", false
	}
	_, rest, ok := strings.Cut(text, " desc = ")
	return rest, ok
}

// first are the failures of all batches: those of steps in the order of the graph's targets.
func first(all []error) []error {
	var out []error
	for _, err := range all {
		if !slices.ContainsFunc(out, func(e error) bool { return e.Error() == err.Error() }) {
			out = append(out, err)
		}
	}
	return out
}
