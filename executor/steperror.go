package executor

import (
	"fmt"
	"strings"

	"github.com/bakebuild/bake/planner"
)

// StepError reports that a step failed because of its input: a command, or a file operation such as a COPY of a missing
// file. Errors of the machine, the cache or a registry have other types.
type StepError struct {
	Step    string             // display name
	Targets []string           // the targets that need the step
	Source  []planner.Location // its place, first the instruction itself; may be empty
	// ExitCode is the exit code of the command, or -1 if there is none.
	ExitCode int
	// Last are the last lines of output, Log is the path of the complete log. Both are empty without output.
	Last []string
	Log  string
	// Hint is what the user can do; may be empty.
	Hint string
	Err  error // the cause; nil if the exit code is enough
}

// Error implements error: the complete message, without the output.
func (e *StepError) Error() string {
	var b strings.Builder
	if len(e.Targets) > 0 {
		fmt.Fprintf(&b, "target %s: ", strings.Join(e.Targets[:min(len(e.Targets), 3)], ", "))
		if more := len(e.Targets) - 3; more > 0 {
			fmt.Fprintf(&b, "and %d more: ", more)
		}
	}
	if at := Place(e.Source); at != "" {
		b.WriteString(at + ": ")
	}
	b.WriteString(e.Step)
	if e.ExitCode >= 0 {
		fmt.Fprintf(&b, ": exit code %d", e.ExitCode)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// Place returns FILE:LINE of the first location, or "".
func Place(source []planner.Location) string {
	if len(source) == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", source[0].File, source[0].Start)
}

// TestFailed returns the failure of a test step.
func TestFailed(s *planner.Step, err error) *StepError {
	return &StepError{Step: s.Name, Targets: s.Targets, Source: s.Source, ExitCode: -1, Err: err}
}
