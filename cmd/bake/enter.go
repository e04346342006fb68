package main

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/scratch"
)

// exitedError reports that the command ran to its end in another process, with this exit code. It is not printed.
type exitedError struct{ code int }

func (e exitedError) Error() string { return "the command ran in another process" }

// namespaceOf reports whether an unprivileged user's command runs in a user namespace. There, root owns the files in
// the cache. The namespace is required if the command runs steps; a command that only reads the cache also works
// without.
func namespaceOf(cmd *cobra.Command) (useful, required bool) {
	switch cmd.CommandPath() {
	case "bake build", "bake image build":
		return true, true
	case "bake plan", "bake history", "bake image pull", "bake image load", "bake image ls", "bake image history",
		"bake image inspect", "bake image tag", "bake image rm",
		"bake cache du", "bake cache prune", "bake cache check":
		return true, false
	}
	// See enterForURLs: another process could not read standard input again.
	files, err := cmd.Flags().GetStringArray("file")
	return err == nil && slices.Contains(files, "-"), false
}

// inNamespace runs the command again in a user namespace if namespaceOf requests one and the user is not root.
func (a *app) inNamespace(ctx context.Context, cmd *cobra.Command) error {
	useful, required := namespaceOf(cmd)
	if !useful || a.enter == nil {
		return nil
	}
	err := a.enterNow(ctx)
	if err == nil && (required || unpacks(cmd)) {
		err = a.findPlace(ctx)
	}
	var unavailable *sandbox.UnavailableError
	if errors.As(err, &unavailable) && !required {
		return nil
	}
	return err
}

// enterNow returns exitedError if the command ran in another process, and nil if it may run here.
func (a *app) enterNow(ctx context.Context) error {
	code, done, err := a.enter(ctx)
	if err != nil {
		return err
	}
	if done {
		return exitedError{code}
	}
	return nil
}

// unpacks reports whether a command that runs no steps may read the files of layers.
func unpacks(cmd *cobra.Command) bool {
	path := cmd.CommandPath()
	return path == "bake plan" || path == "bake cache check"
}

// findPlace sets a.place if layers cannot be in the cache directory. It may run the command again in a mount namespace.
func (a *app) findPlace(ctx context.Context) error {
	dir, err := a.cacheDir()
	if err != nil {
		return nil // opening the cache reports the error
	}
	o := scratch.Options{CacheDir: dir, Dirs: scratch.Dirs(a.env("TMPDIR"))}
	a.place, err = scratch.Find(o)
	if !errors.Is(err, scratch.ErrMounts) {
		return err
	}
	code, done, err := sandbox.EnterMounts(ctx)
	if done {
		return exitedError{code}
	}
	return err
}

// enterForURLs is inNamespace for a command that only plans, as soon as it is known to need the files of an archive:
// they have the owners that the archive gives them, and only root of a namespace can create such files. It must be
// called before the command writes anything.
func (a *app) enterForURLs(ctx context.Context, urls ...string) error {
	if a.enter == nil || !slices.ContainsFunc(urls, config.IsFileURL) {
		return nil
	}
	return a.enterNow(ctx)
}
