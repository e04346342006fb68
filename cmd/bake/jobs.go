package main

import (
	"fmt"
	"strconv"
	"strings"
)

// jobs is the value of --jobs: how many steps run at once, and what a failure does to the others.
type jobs struct {
	text string
	// parallel is how many steps run at once; 0 means the number of CPUs.
	parallel int
	// keepGoing lets independent targets finish after a failure.
	keepGoing bool
}

// Type is how help texts name the value.
func (j *jobs) Type() string { return "N|MODE[,parallel=N]" }

// String is the value as it was given.
func (j *jobs) String() string { return j.text }

// Set reads N, or a mode and a number of parallel steps. Outputs always wait for all targets, unless independent targets
// go on, so that defer-output says what fail-fast does anyway.
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
				return fmt.Errorf("parallel=%s: a whole number from 0 is expected", value)
			}
			j.parallel = int(n)
			continue
		case named && name == "mode":
			name = value
		case named:
			return fmt.Errorf("%s: only mode and parallel are known", name)
		}
		switch name {
		case "fail-fast", "defer-output":
		case "defer-error":
			j.keepGoing = true
		default:
			return fmt.Errorf("%q is neither a number nor one of fail-fast, defer-output and defer-error", name)
		}
		if modes++; modes > 1 {
			return fmt.Errorf("%s: one mode is expected", text)
		}
	}
	return nil
}
