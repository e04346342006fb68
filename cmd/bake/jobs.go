package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// jobs is the value of --jobs: the number of steps that run at once, and the effect of a failure on other targets.
type jobs struct {
	text string
	// parallel is the number of steps that run at once; 0 means the number of CPUs.
	parallel int
	// keepGoing makes independent targets continue after a failure.
	keepGoing bool
}

// Type returns the name of the value in help texts.
func (j *jobs) Type() string { return "N|MODE[,parallel=N]" }

// String returns the value as it was set.
func (j *jobs) String() string { return j.text }

// Set parses N, or a mode and a number of parallel steps. defer-output has the same effect as fail-fast, which writes
// no output before all targets have succeeded.
func (j *jobs) Set(text string) error {
	*j = jobs{text: text}
	modes := 0
	for _, part := range strings.Split(text, ",") {
		name, value, named := strings.Cut(strings.TrimSpace(part), "=")
		if n, err := strconv.ParseUint(name, 10, 31); err == nil && !named && text == part {
			j.parallel = int(n)
			continue
		}
		switch {
		case named && name == "parallel":
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return errors.New("parallel needs a number, 0 or more")
			}
			j.parallel = int(n)
			continue
		case named && name == "mode":
			name = value
		case named:
			return fmt.Errorf("unknown option %q; use mode or parallel", name)
		}
		switch name {
		case "fail-fast", "defer-output":
		case "defer-error":
			j.keepGoing = true
		default:
			return errors.New("expected a number, fail-fast, defer-output or defer-error")
		}
		if modes++; modes > 1 {
			return errors.New("more than one mode")
		}
	}
	return nil
}
