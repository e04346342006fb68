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

// firstCollection is how far the heap grows before memory is first collected, as a percentage of the runtime's least, 4 MB: 20 MB is
// what a large build needs in any case, and more than one that finds everything cached.
const firstCollection = 500

// collectLate puts the first collection off. After it memory is collected as the user's GOGC says, or as usual.
func collectLate() {
	usual := debug.SetGCPercent(firstCollection)
	if usual != 100 {
		debug.SetGCPercent(usual)
		return
	}
	collected := new([1 << 10]byte) // too large to share its memory with something that lives on
	runtime.SetFinalizer(collected, func(*[1 << 10]byte) { debug.SetGCPercent(usual) })
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
