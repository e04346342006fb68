package revision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Checkout is a git repository with a working tree. It is only read: neither files nor git's index are written.
// It may be used by several goroutines.
type Checkout struct {
	repository
	blobs *blobs
}

// Open finds the checkout that contains a directory. The git processes that it starts later end with ctx.
func Open(ctx context.Context, dir string) (*Checkout, error) {
	top, err := repository{dir}.git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	r := repository{strings.TrimRight(top, "\n")}
	return &Checkout{repository: r, blobs: &blobs{repository: r, ctx: ctx}}, nil
}

// Close ends the git process that reads blobs and removes the files that the views wrote. No view may be used after it.
func (c *Checkout) Close() error { return c.blobs.close() }

// Commit returns the id of the commit that a revision names, such as "main" or "HEAD~2".
func (c *Checkout) Commit(ctx context.Context, revision string) (string, error) {
	commit, err := c.git(ctx, "rev-parse", "--verify", "--end-of-options", revision+"^{commit}")
	return strings.TrimRight(commit, "\n"), err
}

// repository is a directory in which git runs: the top of a checkout or of a submodule.
type repository struct{ top string }

// git runs git and returns its output. The error has what git printed on standard error.
func (r repository) git(ctx context.Context, args ...string) (string, error) {
	cmd := r.command(ctx, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			err = errors.New(text)
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return string(out), nil
}

// command returns a git command. GIT_OPTIONAL_LOCKS=0 keeps git from refreshing its index, which "git diff" would
// otherwise do.
func (r repository) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = r.top, append(os.Environ(), "GIT_OPTIONAL_LOCKS=0")
	return cmd
}

// paths runs git with -z among its arguments and returns the records that it prints.
func (r repository) paths(ctx context.Context, args ...string) ([]string, error) {
	out, err := r.git(ctx, args...)
	if err != nil || out == "" {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00"), nil
}
