package main

import (
	"fmt"
	"os"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/terminal"
)

// debugTerminal returns the user's terminal for --debug-shell, nil without that flag.
func (a *app) debugTerminal(builders []buildkitd.Builder, o runOptions) (*terminal.Terminal, error) {
	if !o.debugShell {
		return nil, nil
	}
	if len(builders) > 0 {
		return nil, usagef("--debug-shell cannot be combined with a BuildKit daemon; use --engine embedded instead")
	}
	t := new(terminal.Terminal)
	for _, stream := range []struct {
		name string
		is   any
		file **os.File
	}{{"standard input", a.stdin, &t.In}, {"standard error", a.stderr, &t.Out}} {
		file, ok := terminal.Is(stream.is)
		if !ok {
			return nil, usagef("--debug-shell needs a terminal, and %s is not one; remove the flag", stream.name)
		}
		*stream.file = file
	}
	return t, nil
}

// debug returns the function that the engine calls when a command fails. The build continues when the shell ends, with
// the same result.
func (a *app) debug(t *terminal.Terminal, display *progress) func(*executor.StepError, func(*os.File, string) error) {
	return func(failed *executor.StepError, shell func(*os.File, string) error) {
		display.Suspend(func() {
			fmt.Fprintf(a.stderr, "\n%s\n", failed.Error())
			if shell == nil {
				a.note("its root file system has no shell; " +
					"to debug it, copy one into the stage: COPY --from=busybox /bin/busybox /bin/sh")
				return
			}
			a.note("shell in the root file system of the failed step, with its mounts and secrets; " +
				"exit continues the build")
			if err := t.Run(func(slave *os.File) error { return shell(slave, a.env("TERM")) }); err != nil {
				a.note("open the shell: %v", err)
			}
		})
	}
}
