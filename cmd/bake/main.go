// Command bake builds container images from a project file, without a daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

func main() {
	collectLate()
	ctx, stop := interruptible(context.Background())
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: environment(), enter: sandbox.Enter}
	os.Exit(a.run(ctx, os.Args[1:]))
}

const (
	// firstCollection is how far the heap grows before memory is first collected, as a percentage of the runtime's least, 4 MB: 16 MB is
	// what a large build needs in any case, and more than one that finds everything cached.
	firstCollection = 400
	// laterCollections is how far it grows then, as a percentage of what is in use. Of the memory of a build most is the program, and
	// what is in use is little and costs little to look at.
	laterCollections = 50
)

// collectLate puts the first collection off, unless the user's GOGC says when memory is collected.
func collectLate() {
	if usual := debug.SetGCPercent(firstCollection); usual != 100 {
		debug.SetGCPercent(usual)
		return
	}
	collected := new([1 << 10]byte) // too large to share its memory with something that lives on
	runtime.SetFinalizer(collected, func(*[1 << 10]byte) { debug.SetGCPercent(laterCollections) })
}

// interruptible returns a context that the first interrupt or termination signal cancels with its signalError as the
// cause; the second one ends the process at once.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		cancel(signalError{(<-signals).(syscall.Signal)})
		os.Exit(signalError{(<-signals).(syscall.Signal)}.ExitCode())
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}
