package planner

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// DockerfileError is an error in a Dockerfile, or in the attributes of a target that configure its Dockerfile and
// contexts. Error returns the complete message for the user.
type DockerfileError struct {
	Target string
	File   string // as displayed to the user; "" if unknown
	Line   int    // from 1; 0 if unknown
	Err    error  // the reason and what to do, without the location
}

// Error returns the target, the location, the reason and what to do.
func (e *DockerfileError) Error() string {
	return "target " + e.Target + ": " + place(e.File, e.Line) + e.Err.Error()
}

// Unwrap returns the error without the target and location.
func (e *DockerfileError) Unwrap() error { return e.Err }

// BaseError reports that a base image could not be resolved. Err is the resolver's error.
type BaseError struct {
	Target string
	File   string
	Line   int
	Ref    string // normalized
	Err    error
	Hint   string // such as "did you mean alpine?", or ""
}

// Error returns the target, the location, the image and the resolver's error.
func (e *BaseError) Error() string {
	what := "resolve " + e.Ref + ": "
	if strings.Contains(e.Err.Error(), e.Ref) { // the registry's message contains the reference
		what = ""
	}
	text := fmt.Sprintf("target %s: %s%s%v", e.Target, place(e.File, e.Line), what, e.Err)
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// Unwrap returns the resolver's error.
func (e *BaseError) Unwrap() error { return e.Err }

// Errors holds the errors of several targets in the order of the targets, without duplicates.
type Errors []error

// Error returns one line per error for up to 20 errors, and the number of the others.
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

// Unwrap returns the errors.
func (e Errors) Unwrap() []error { return e }

// join combines the errors that are not nil. An error that repeats an earlier one for another target is left out.
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

// place returns "FILE:LINE: ", "FILE: " or "".
func place(file string, line int) string {
	switch {
	case file == "":
		return ""
	case line <= 0:
		return file + ": "
	}
	return fmt.Sprintf("%s:%d: ", file, line)
}

// resolveError marks an error of the Resolver on its way through the frontend.
type resolveError struct {
	ref string
	err error
}

func (e *resolveError) Error() string { return e.err.Error() }
func (e *resolveError) Unwrap() error { return e.err }

// frontEndError adds the target and location to an error of the frontend.
func (d dockerfile) frontEndError(target string, err error) error {
	line, file := 0, d.display
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		line = d.lines.original(located.Locations[0][0].Start.Line)
	}
	var resolve *resolveError
	if errors.As(err, &resolve) {
		hint := ""
		if _, after, ok := strings.Cut(err.Error(), "(did you mean "); ok {
			hint = "did you mean " + strings.TrimSuffix(after, ")")
		}
		return &BaseError{Target: target, File: file, Line: line, Ref: resolve.ref, Err: resolve.err, Hint: hint}
	}
	if ignore, ok := errors.AsType[*ignoreError](err); ok {
		return &DockerfileError{Target: target, File: ignore.file, Line: ignore.line, Err: ignore.err}
	}
	if d.joint != "" {
		err = &unjoinedError{err, d.joint}
	}
	return &DockerfileError{Target: target, File: file, Line: line, Err: &plainError{err}}
}

// unjoinedError is an error of the frontend without the joints of its Dockerfile.
type unjoinedError struct {
	err   error
	joint string
}

func (e *unjoinedError) Error() string { return strings.ReplaceAll(e.err.Error(), e.joint, "") }
func (e *unjoinedError) Unwrap() error { return e.err }

// plainError is an error of the frontend whose text leaves out the location, because DockerfileError adds it.
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
