package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
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
	return false, false
}

// inNamespace runs the command again in a user namespace if namespaceOf requests one and the user is not root.
func (a *app) inNamespace(ctx context.Context, cmd *cobra.Command) error {
	useful, required := namespaceOf(cmd)
	if !useful || a.enter == nil {
		return nil
	}
	code, done, err := a.enter(ctx)
	var unavailable *sandbox.UnavailableError
	if errors.As(err, &unavailable) && !required {
		return nil
	}
	if err != nil {
		return err
	}
	if done {
		return exitedError{code}
	}
	return nil
}
