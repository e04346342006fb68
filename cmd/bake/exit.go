package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/affected"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/builds"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/dial"
	"github.com/bakebuild/bake/executor/docker"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/watch"
	"github.com/bakebuild/bake/planner"
	"github.com/bakebuild/bake/planner/pins"
)

// The exit codes of bake. Scripts rely on them; the top README lists them.
const (
	exitOK         = 0
	exitStep       = 1   // a step failed, or a file that COPY names is missing
	exitUsage      = 2   // usage, project file, Dockerfile
	exitLock       = 3   // lock missing or out of date
	exitPolicy     = 4   // a policy denies the build
	exitRegistry   = 5   // registry, network, credentials, an engine that does not respond
	exitDifference = 6   // a difference: --exit-code, --verify-cache, bake cache check
	exitSystem     = 7   // cache or output I/O, no sandbox on this machine
	exitSignal     = 128 // plus the number of the signal
)

// maxErrorLines is the maximum number of lines printed for one error.
const maxErrorLines = 20

// maxLastLines is the maximum number of lines of a failed step's output that are printed with its error.
const maxLastLines = 10

// signalError is the cause of a context that a signal cancelled.
type signalError struct{ signal syscall.Signal }

func (e signalError) Error() string { return "interrupted (" + e.signal.String() + ")" }

// ExitCode returns 128 plus the number of the signal.
func (e signalError) ExitCode() int { return exitSignal + int(e.signal) }

// usageError is a mistake on the command line.
type usageError struct{ error }

// usagef returns a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCodeOf returns the exit code for an error. No other function chooses one.
func exitCodeOf(ctx context.Context, err error) int {
	var several *executor.Failures
	if errors.As(err, &several) {
		err = several.All[0]
	}
	var (
		sig         signalError
		usage       usageError
		image       *images.Error
		history     *builds.Error
		diags       config.Diagnostics
		file        *planner.DockerfileError
		step        *executor.StepError
		reg         *registry.Error
		store       *cache.Error
		unavailable *sandbox.UnavailableError
		differ      differenceError
		fetched     *fetch.Error
		local       *dial.LocalError
		lock        *planner.LockError
		rule        *planner.PolicyError
		daemon      *buildkitd.Error
		engine      *docker.Error
		watched     *watch.Error
		output      *executor.OutputError
		cached      *buildkitd.CacheError
		compared    *affected.RequestError
		corrupt     *executor.CorruptError
		pinUsage    *pins.UsageError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(context.Cause(ctx), &sig):
		return sig.ExitCode()
	case errors.Is(err, context.Canceled):
		return signalError{syscall.SIGINT}.ExitCode()
	case errors.As(err, &unavailable), errors.As(err, &store), errors.As(err, &watched), errors.As(err, &corrupt),
		cache.SystemFault(err):
		return exitSystem
	case errors.As(err, &local), errors.As(err, &rule):
		return exitUsage
	case errors.As(err, &step):
		return exitStep
	case isDenied(err):
		return exitPolicy
	case errors.As(err, &lock):
		return exitLock
	case errors.As(err, &reg), errors.As(err, &fetched), errors.As(err, &daemon), errors.As(err, &engine):
		return exitRegistry
	case errors.As(err, &usage), errors.As(err, &diags), errors.As(err, &file), errors.As(err, &output),
		errors.As(err, &cached), errors.As(err, &compared), errors.As(err, &pinUsage), errors.As(err, &image),
		errors.As(err, &history):
		return exitUsage
	case errors.As(err, &differ):
		return exitDifference
	}
	return exitCodeOfUntyped(err)
}

// isDenied reports whether a policy denies the build, or cannot be evaluated here.
func isDenied(err error) bool {
	var denied deniedError
	var rego *planner.RegoError
	return errors.As(err, &denied) || errors.As(err, &rego)
}

// exitCodeOfUntyped returns exitSystem for an error of the operating system, and exitStep for any other. A report of
// bake doctor has a code of its own.
func exitCodeOfUntyped(err error) int {
	var report doctorError
	if errors.As(err, &report) {
		return report.exitCode()
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return exitSystem
	}
	return exitStep
}

// checkError reports what --call=check found.
type checkError struct{ text string }

func (e checkError) Error() string { return e.text }

// differenceError reports a difference, for a command that exits with 6 if there is one.
type differenceError struct{ text string }

func (e differenceError) Error() string { return e.text }

// printError prints an error for people. No other function does.
func printError(ctx context.Context, w io.Writer, err error) {
	var sig signalError
	if errors.As(context.Cause(ctx), &sig) {
		err = sig
	}
	all := separate(err)
	for _, one := range all {
		printOne(w, one)
	}
	if slices.ContainsFunc(all, fromEnvironment) {
		fmt.Fprintln(w, doctorHint)
	}
}

// separate returns the errors of several failures, or the only one.
func separate(err error) []error {
	var several *executor.Failures
	if !errors.As(err, &several) {
		return []error{err}
	}
	var all []error
	for _, one := range several.All {
		all = append(all, separate(one)...)
	}
	return all
}

// printOne prints one error of printError.
func printOne(w io.Writer, err error) {
	var step *executor.StepError
	if errors.As(err, &step) {
		printStep(w, step)
	}
	lines := strings.Split(strings.TrimRight(shownText(err.Error()), "\n"), "\n")
	rest := 0
	if len(lines) > maxErrorLines {
		rest = len(lines) - maxErrorLines
		lines = lines[:maxErrorLines]
	}
	fmt.Fprintf(w, "error: %s\n", strings.Join(lines, "\n"))
	if rest > 0 {
		fmt.Fprintf(w, "… and %d more lines\n", rest)
	}
	if step != nil && step.Log != "" {
		fmt.Fprintf(w, "full log: %s\n", step.Log)
	}
}

// shownText removes control characters except newlines and tabs: error texts contain names of files and messages of
// servers, which must not control the terminal.
func shownText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// printStep prints the last lines of a failed step's output, and the lines of its Dockerfile around the step.
func printStep(w io.Writer, e *executor.StepError) {
	for _, line := range e.Last[max(0, len(e.Last)-maxLastLines):] {
		fmt.Fprintf(w, "  | %s\n", shownText(line))
	}
	if len(e.Source) == 0 {
		return
	}
	at := e.Source[0]
	raw, err := os.ReadFile(at.File)
	if err != nil {
		return // an inline or remote Dockerfile; the message names it
	}
	lines := strings.Split(string(raw), "\n")
	if at.Start < 1 || at.End > len(lines) {
		return
	}
	fmt.Fprintf(w, "%s:%d\n", shownText(at.File), at.Start)
	for n := max(1, at.Start-2); n <= min(len(lines), at.End+2); n++ {
		mark := "   "
		if n >= at.Start && n <= at.End {
			mark = ">>>"
		}
		fmt.Fprintf(w, "%4d %s %s\n", n, mark, shownText(strings.TrimRight(lines[n-1], "\r")))
	}
}
