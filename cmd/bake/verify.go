package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner/pins"
)

type verifyOptions struct {
	project projectOptions
	online  bool
}

func newVerifyCommand(a *app) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that " + config.LockName + " matches the project",
		Long: "Check that everything the targets use is pinned for the platforms to build, that no pin is\n" +
			"unused, and that the policies hold.\n\n" +
			"With --online, also check that registries and servers still have what is pinned, and that version\n" +
			"tags such as 1.2.3 still have the pinned digest.",
		Example: "  bake verify\n  bake verify --online",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.verifyCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.online, "online", false, "also check the registries and servers")
	return cmd
}

func (a *app) verifyCommand(ctx context.Context, o verifyOptions) error {
	project, err := a.wholeProject(ctx, o.project)
	if err != nil {
		return err
	}
	lock, err := a.readLock(project.Dir, lockOptions{mode: string(pins.Locked)})
	if err != nil {
		return err
	}
	if lock.File == nil {
		return errRemoteProject()
	}
	s, err := a.open(false)
	if err != nil {
		return err
	}
	defer s.Close()
	graph, err := s.plan(ctx, project, runOptions{pins: lock})
	if err != nil {
		return err
	}
	found := []error{pins.CheckUnused(lock.File, graph), a.checkRules(project, graph)}
	if o.online {
		found = append(found, s.remote().Verify(ctx, lock.File, graph)...)
	}
	if err := joinFailures(found...); err != nil {
		return err
	}
	result := "none missing or unused"
	if o.online {
		result += ", none deleted or moved"
	}
	_, err = fmt.Fprintf(a.stderr, "%s: %s, %s\n", config.LockName, plural(lock.File.Len(), "pin"), result)
	return err
}
