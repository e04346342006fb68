package imagetest

import (
	"strconv"

	"github.com/bakebuild/bake/planner"
)

// CheckCommand compares how a command ended with its test. A difference is an *Error.
func CheckCommand(t *planner.Test, r CommandResult) error {
	var d differences
	if r.ExitCode != t.ExitCode {
		d.add("exit code", strconv.Itoa(t.ExitCode), strconv.Itoa(r.ExitCode))
	}
	d.text("stdout", t.Stdout, string(r.Stdout))
	d.text("stderr", t.Stderr, string(r.Stderr))
	return d.err()
}
