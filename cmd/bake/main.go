// Command bake builds container images from a project file, without a daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/bakebuild/bake/executor/dial"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

func main() {
	if code, isHelper := dial.Helper(os.Getenv, os.Args[1:]); isHelper {
		os.Exit(code)
	}
	collectLate()
	logs := &libraryLog{w: os.Stderr}
	logrus.SetFormatter(logs)
	logrus.SetOutput(logs)
	ctx, stop := interruptible(context.Background())
	defer stop()
	a := &app{
		program: filepath.Base(os.Args[0]),
		stdin:   os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: environment(), enter: sandbox.Enter,
		logs: logs,
	}
	os.Exit(a.run(ctx, os.Args[1:]))
}

const (
	// firstCollection is the GC percentage until the first collection. The runtime's minimum heap is 4 MB, so the heap
	// grows to 16 MB first: a large build needs that anyway, and a fully cached build needs less.
	firstCollection = 400
	// laterCollections is the GC percentage afterwards. Most memory of a build is the program itself; the live heap is
	// small, so that collections are cheap.
	laterCollections = 50
)

// collectLate delays the first garbage collection, unless the user has set GOGC.
func collectLate() {
	if usual := debug.SetGCPercent(firstCollection); usual != 100 {
		debug.SetGCPercent(usual)
		return
	}
	sentinel := new([1 << 10]byte) // too large for the tiny allocator, whose blocks live as long as their other objects
	runtime.SetFinalizer(sentinel, func(*[1 << 10]byte) { debug.SetGCPercent(laterCollections) })
}

// interruptible returns a context that the first interrupt or termination signal cancels, with a signalError as the
// cause. The second signal ends the process at once.
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
