package planner

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// DockerfileError is a mistake in a Dockerfile, or in what a target says about its Dockerfile and contexts. Error is the
// complete message for the user.
type DockerfileError struct {
	Target string
	File   string // as the user would name it; "" is unknown
	Line   int    // from 1; 0 is unknown
	Err    error  // what is wrong and what to do, without the place
}

// Error names the target, the place and what to do.
func (e *DockerfileError) Error() string {
	return "target " + e.Target + ": " + place(e.File, e.Line) + e.Err.Error()
}

// Unwrap gives what is wrong.
func (e *DockerfileError) Unwrap() error { return e.Err }

// BaseError says that a base image could not be resolved. Err is the resolver's error.
type BaseError struct {
	Target string
	File   string
	Line   int
	Ref    string // normalised
	Err    error
	Hint   string // such as "did you mean alpine?", or ""
}

// Error names the target, the place, the image and the resolver's reason.
func (e *BaseError) Error() string {
	what := "resolve " + e.Ref + ": "
	if strings.Contains(e.Err.Error(), e.Ref) { // a registry's own message names it
		what = ""
	}
	text := fmt.Sprintf("target %s: %s%s%v", e.Target, place(e.File, e.Line), what, e.Err)
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// Unwrap gives the resolver's error.
func (e *BaseError) Unwrap() error { return e.Err }

// Errors are the errors of several targets, the first target's first, each different.
type Errors []error

// Error gives one line for each error, at most 20, and the count of the rest.
func (e Errors) Error() string {
	var lines []string
	for i, err := range e {
		if i == 20 {
			lines = append(lines, fmt.Sprintf("and %d more", len(e)-i))
			break
		}
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the errors.
func (e Errors) Unwrap() []error { return e }

// join makes one error of those that are not nil; an error that says of another target what an earlier one said is left
// out.
func join(errs []error) error {
	var out Errors
	seen := map[string]bool{}
	for _, err := range errs {
		if err == nil {
			continue
		}
		core := err.Error()
		var base *BaseError
		if errors.As(err, &base) {
			core = base.Ref + base.Err.Error()
		}
		if !seen[core] {
			seen[core] = true
			out = append(out, err)
		}
	}
	switch len(out) {
	case 0:
		return nil
	case 1:
		return out[0]
	}
	return out
}

// place is "FILE:LINE: ", "FILE: " or nothing.
func place(file string, line int) string {
	switch {
	case file == "":
		return ""
	case line <= 0:
		return file + ": "
	}
	return fmt.Sprintf("%s:%d: ", file, line)
}

// resolveError marks an error of the Resolver on its way through the front end.
type resolveError struct {
	ref string
	err error
}

func (e *resolveError) Error() string { return e.err.Error() }
func (e *resolveError) Unwrap() error { return e.err }

// frontEndError gives an error of the front end its target and place.
func frontEndError(target, file string, err error) error {
	line := 0
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		line = located.Locations[0][0].Start.Line
	}
	var resolve *resolveError
	if errors.As(err, &resolve) {
		hint := ""
		if _, after, ok := strings.Cut(err.Error(), "(did you mean "); ok {
			hint = "did you mean " + strings.TrimSuffix(after, ")")
		}
		return &BaseError{Target: target, File: file, Line: line, Ref: resolve.ref, Err: resolve.err, Hint: hint}
	}
	return &DockerfileError{Target: target, File: file, Line: line, Err: &plainError{err}}
}

// plainError is an error of the front end without the place in its text, which DockerfileError shows.
type plainError struct{ err error }

func (e *plainError) Error() string {
	text := e.err.Error()
	if rest, ok := strings.CutPrefix(text, "dockerfile parse error on line "); ok {
		if _, after, ok := strings.Cut(rest, ": "); ok {
			text = after
		}
	}
	return strings.TrimPrefix(text, "failed to ")
}

func (e *plainError) Unwrap() error { return e.err }
