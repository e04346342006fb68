// Package doctor checks what builds need of this machine: kernel, namespaces, cache, network, registries and engines.
// Each check is one line of a report: what was found, and what to do if something does not work. Checks use the same
// functions as a build, so that the report and a build cannot disagree.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Status is the result of a check.
type Status string

// The values of Status. Part of the output format.
const (
	OK      Status = "ok"
	Warning Status = "warning" // builds work, but not everything that a build may use
	Failure Status = "failure" // builds that need this fail
	Skipped Status = "skipped" // not checked, or not needed here
)

// Area says what a failure of a check is a fault of.
type Area int

// The values of Area.
const (
	Machine Area = iota // this machine: kernel, sandbox, cache
	Network             // the network, a registry, credentials or an engine
)

// Finding is what a check found.
type Finding struct {
	Status Status `json:"status"`
	Detail string `json:"detail"` // one line
	Fix    string `json:"fix"`    // what to do, one line; "" if there is nothing to do
}

// Result is the finding of a check. Its JSON form is part of the output format.
type Result struct {
	Name    string `json:"name"`    // what was checked, such as "registry"
	Subject string `json:"subject"` // which one, such as "docker.io"; "" if there is only one
	Finding
	Area Area `json:"-"`
}

// Check examines one thing.
type Check struct {
	Name, Subject string
	Area          Area
	Run           func(ctx context.Context) Finding
}

const (
	// patience bounds one check. All checks run at the same time, so it bounds the report too.
	patience = 5 * time.Second
	// grace is how long a check may take to return after its time is over. Then it is left behind, for example in a
	// system call on a file system that does not respond.
	grace = 500 * time.Millisecond
)

// Run runs all checks at the same time, and calls report with their results in the order of checks. It returns the
// cause if ctx ends.
func Run(ctx context.Context, checks []Check, report func(Result)) error {
	return run(ctx, checks, patience, report)
}

func run(ctx context.Context, checks []Check, patience time.Duration, report func(Result)) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found := make([]chan Finding, len(checks))
	for i, c := range checks {
		found[i] = make(chan Finding, 1)
		go func() { found[i] <- c.Run(limited) }()
	}
	over := make(chan struct{})
	timer := time.AfterFunc(patience+grace, func() { close(over) })
	defer timer.Stop()
	for i, c := range checks {
		f := Finding{Failure, fmt.Sprintf("no result within %s", patience), ""}
		select {
		case f = <-found[i]:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			select {
			case f = <-found[i]: // both were ready
			default:
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f.Detail, f.Fix = line(f.Detail), line(f.Fix)
		report(Result{Name: c.Name, Subject: line(c.Subject), Finding: f, Area: c.Area})
	}
	return nil
}

// maxLine bounds the text of a finding, in bytes: it may contain text of a server or a program.
const maxLine = 600

// line makes text one line without control characters.
func line(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, ""), func(r rune) bool { return r == '\n' }), "; ")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return strings.TrimSpace(s)
}

func okf(format string, args ...any) Finding { return Finding{OK, fmt.Sprintf(format, args...), ""} }

func skipf(format string, args ...any) Finding {
	return Finding{Skipped, fmt.Sprintf(format, args...), ""}
}

func warn(detail, fix string) Finding { return Finding{Warning, detail, fix} }

func fail(detail, fix string) Finding { return Finding{Failure, detail, fix} }

// late returns the text for an error, which is that nothing answered if the time of the check is over.
func late(ctx context.Context, err error) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", patience)
	}
	return err.Error()
}
