package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// repository is a checkout of git, of which everything is only read.
type repository struct{ top string }

// openRepository finds the checkout that a directory is in.
func openRepository(ctx context.Context, dir string) (repository, error) {
	top, err := repository{dir}.git(ctx, "rev-parse", "--show-toplevel")
	return repository{strings.TrimRight(top, "\n")}, err
}

// commit is what a revision names.
func (r repository) commit(ctx context.Context, revision string) (string, error) {
	commit, err := r.git(ctx, "rev-parse", "--verify", "--end-of-options", revision+"^{commit}")
	return strings.TrimRight(commit, "\n"), err
}

// git runs git and gives what it prints. Git does not write its index meanwhile, as it would to save time.
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

func (r repository) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = r.top, append(os.Environ(), "GIT_OPTIONAL_LOCKS=0")
	return cmd
}

// paths are what git prints with -z.
func (r repository) paths(ctx context.Context, args ...string) ([]string, error) {
	out, err := r.git(ctx, args...)
	if err != nil || out == "" {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00"), nil
}

// objects reads blobs with one git for all of them, which is started at the first.
type objects struct {
	repository repository
	ctx        context.Context // of the command, which the git must not outlive

	mu  sync.Mutex
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// read copies a blob of at most so many bytes.
func (o *objects) read(id string, limit int64, to io.Writer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.start()
	if err == nil {
		_, err = fmt.Fprintln(o.in, id)
	}
	if err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	head, err := o.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	fields := strings.Fields(head)
	if len(fields) != 3 || fields[1] != "blob" {
		return fmt.Errorf("git cat-file: %s", strings.TrimSpace(head))
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	if size > limit {
		_, err := io.CopyN(io.Discard, o.out, size+1)
		return errors.Join(err, fmt.Errorf("it has more than %d bytes", limit))
	}
	if _, err := io.CopyN(to, o.out, size); err != nil {
		return fmt.Errorf("git cat-file: %w", err)
	}
	_, err = o.out.Discard(1)
	return err
}

func (o *objects) start() (err error) {
	if o.cmd != nil {
		return nil
	}
	cmd := o.repository.command(o.ctx, "cat-file", "--batch")
	if o.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	o.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return err
	}
	o.cmd = cmd
	return nil
}

// Close ends the git.
func (o *objects) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cmd == nil {
		return nil
	}
	return errors.Join(o.in.Close(), o.cmd.Wait())
}
