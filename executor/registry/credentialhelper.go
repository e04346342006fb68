package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/docker/cli/cli/config/types"
	"github.com/docker/docker-credential-helpers/client"
	helpers "github.com/docker/docker-credential-helpers/credentials"
)

// askHelper runs docker-credential-NAME for a server and returns its answer, the zero value if it knows none. A helper
// that does not respond in time is killed with the processes that it started.
func askHelper(ctx context.Context, name, server string, patience time.Duration) (types.AuthConfig, error) {
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(ctx, patience, late)
	defer cancel()
	run := func(args ...string) client.Program { return newHelper(ctx, "docker-credential-"+name, args) }
	answer, err := client.Get(run, server)
	switch {
	case errors.Is(context.Cause(ctx), late):
		return types.AuthConfig{}, fmt.Errorf("the credential helper for %s did not respond within %s; "+
			"to test it, run: echo %s | docker-credential-%s get", loginHost(server), patience, server, name)
	case ctx.Err() != nil:
		return types.AuthConfig{}, context.Cause(ctx)
	case helpers.IsErrCredentialsNotFound(err):
		return types.AuthConfig{}, nil
	case err != nil:
		return types.AuthConfig{}, err
	case answer.Username == "<token>":
		return types.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return types.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
}

// helperProgram is a running helper. It implements client.Program.
type helperProgram struct{ cmd *exec.Cmd }

// newHelper prepares a helper. It leads a process group of its own, so that nothing that it starts outlives it: a
// helper is often a script, and killing the shell alone would leave the program that hangs.
func newHelper(ctx context.Context, program string, args []string) helperProgram {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a process that left the group may keep the pipe open
	return helperProgram{cmd}
}

// Output implements client.Program.
func (p helperProgram) Output() ([]byte, error) { return p.cmd.Output() }

// Input implements client.Program.
func (p helperProgram) Input(in io.Reader) { p.cmd.Stdin = in }
