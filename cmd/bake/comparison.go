package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// comparison is two revisions of a project, each as a directory: files of a revision are in one of our own, and the
// checkout and its index stay as they are.
type comparison struct {
	app           *app
	session       *session
	temp          string
	before, after string // the project's directory in each

	mu      sync.Mutex
	unknown map[string]bool // references of bases that nothing here knows
}

// Close removes what was written.
func (c *comparison) Close() error { return os.RemoveAll(c.temp) }

func (c *comparison) unknownRefs() []string {
	return append([]string{}, slices.Sorted(maps.Keys(c.unknown))...)
}

func (a *app) newComparison(ctx context.Context, s *session, o affectedOptions) (_ *comparison, err error) {
	dir, err := a.workDir()
	if err != nil {
		return nil, err
	}
	top, err := runGit(ctx, dir, nil, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, usagef("affected compares revisions in git: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	inside, err := filepath.Rel(top, real)
	if err != nil {
		return nil, err
	}
	c := &comparison{app: a, session: s, unknown: map[string]bool{}, after: dir}
	if c.temp, err = os.MkdirTemp("", "bake-affected-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	before, err := c.checkOut(ctx, top, o.since, "before")
	if err != nil {
		return nil, err
	}
	c.before = filepath.Join(before, inside)
	if o.until != "" {
		after, err := c.checkOut(ctx, top, o.until, "after")
		if err != nil {
			return nil, err
		}
		c.after = filepath.Join(after, inside)
		return c, nil
	}
	return c, alikeModes(before, top)
}

// checkOut writes the files of a revision, by way of an index of its own.
func (c *comparison) checkOut(ctx context.Context, top, revision, name string) (string, error) {
	commit, err := runGit(ctx, top, nil, "rev-parse", "--verify", "--end-of-options", revision+"^{commit}")
	if err != nil {
		return "", usagef("%s is no revision here: %w", revision, err)
	}
	dir := filepath.Join(c.temp, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(c.temp, name+".index")}
	if _, err := runGit(ctx, top, env, "read-tree", commit); err != nil {
		return "", fmt.Errorf("read %s: %w", revision, err)
	}
	if _, err := runGit(ctx, top, env, "checkout-index", "--all", "--quiet", "--prefix="+dir+"/"); err != nil {
		return "", fmt.Errorf("write the files of %s: %w", revision, err)
	}
	return dir, nil
}

// runGit runs git and gives the first line of what it prints.
func runGit(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			err = errors.New(text)
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// alikeModes gives files that were written now the permissions of those in the working tree, where git sees no
// difference: it keeps only whether a file may be executed.
func alikeModes(fresh, worktree string) error {
	return filepath.WalkDir(fresh, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		inside, err := filepath.Rel(fresh, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		there, err := os.Lstat(filepath.Join(worktree, inside))
		if err != nil || there.Mode().Type() != info.Mode().Type() || !there.IsDir() && (there.Mode()^info.Mode())&0o100 != 0 {
			return nil // it is another one now
		}
		return os.Chmod(p, there.Mode().Perm())
	})
}
