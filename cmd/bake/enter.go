package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// exitedError says that the command ran to its end in another process, with this exit code. There is nothing to print.
type exitedError struct{ code int }

func (e exitedError) Error() string { return "the command has ended" }

// namespaceOf says what a command needs of an ordinary user's namespace, in which the cache belongs to root: nothing, or
// to be in one if that can be had, or to be in one in any case, since it runs steps.
func namespaceOf(cmd *cobra.Command) (wanted, required bool) {
	switch cmd.CommandPath() {
	case "bake build", "bake image build":
		return true, true
	case "bake plan", "bake history", "bake image pull", "bake image load", "bake image ls", "bake image history", "bake image inspect",
		"bake image tag", "bake image rm", "bake cache du", "bake cache prune", "bake cache check":
		return true, false
	}
	return false, false
}

// inNamespace runs the command once more in a user namespace where an ordinary user needs that.
func (a *app) inNamespace(ctx context.Context, cmd *cobra.Command) error {
	wanted, required := namespaceOf(cmd)
	if !wanted || a.enter == nil {
		return nil
	}
	code, done, err := a.enter(ctx)
	var no *sandbox.UnavailableError
	if errors.As(err, &no) && !required {
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
