// Command bake builds container images from a project file, without a daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

func main() {
	ctx, stop := interruptible(context.Background())
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: environment(), enter: sandbox.Enter}
	os.Exit(a.run(ctx, os.Args[1:]))
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
