package doctor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/registry"
)

// maxHelpers bounds the credential helpers that are checked.
const maxHelpers = 16

// helpers returns a check for each credential helper that the user's files name.
func helpers(getenv func(string) (string, bool)) []Check {
	all, err := registry.Helpers(getenv)
	if err != nil {
		return []Check{{Name: "credentials", Area: Network, Run: func(context.Context) Finding {
			return fail("the files of credentials cannot be read: "+err.Error(), "correct the file, or log in again")
		}}}
	}
	var checks []Check
	for _, h := range all[:min(len(all), maxHelpers)] {
		checks = append(checks, Check{
			Name: "credential helper", Subject: h.Name, Area: Network,
			Run: func(ctx context.Context) Finding { return helper(ctx, h) },
		})
	}
	return checks
}

// helper checks that a helper starts and ends. It asks for the list of hosts, which every helper must answer and for
// which none should ask the user. The answer is not shown.
func helper(ctx context.Context, h registry.Helper) Finding {
	program := "docker-credential-" + h.Name
	use := "credentials of all registries"
	if len(h.Hosts) > 0 {
		use = "credentials of " + strings.Join(h.Hosts, ", ")
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return fail(fmt.Sprintf("%s, which %s names for %s, cannot be started: %v", program, h.File, use, bare(err)),
			"install it, or remove it from the file")
	}
	var errs strings.Builder
	cmd := exec.CommandContext(ctx, path, "list")
	cmd.Stderr = &limited{to: &errs}
	cmd.WaitDelay = grace / 2
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // also what a script started
	start := time.Now()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fail(fmt.Sprintf("%s does not end (%s)", path, time.Since(start).Round(time.Second)),
			"to test it, run: "+program+" list")
	case errors.As(err, &exit):
		return warn(fmt.Sprintf("%s list: %v: %s", path, err, errs.String()), "to test it, run: "+program+" list")
	case err != nil:
		return fail(fmt.Sprintf("%s cannot be started: %v", path, bare(err)), "reinstall it, or remove it from "+h.File)
	}
	return okf("%s starts; %s", path, use)
}

// bare returns an error of a start without the name of the program.
func bare(err error) error {
	var e *exec.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// limited is a writer that keeps the first bytes only.
type limited struct{ to *strings.Builder }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.to.Write(p[:min(len(p), maxLine-min(maxLine, l.to.Len()))])
	return len(p), nil
}
