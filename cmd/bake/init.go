package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner/scaffold"
)

func newInitCommand(a *app) *cobra.Command {
	var from []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a bake.hcl for the compose files and Dockerfiles of this directory",
		Long: "Write a bake.hcl with a target for each service of a compose file and each other Dockerfile in this\n" +
			"directory and below. Variables of compose files stay variables. Review the file before you commit it.",
		Example: "  bake init && bake plan\n  bake init --from docker-bake.hcl",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.initProject(cmd.Context(), from) },
	}
	cmd.Flags().StringArrayVar(&from, "from", nil,
		"file to convert instead of searching: a compose file or a docker-bake file; may be repeated")
	return cmd
}

// initProject writes a project file. It never overwrites one, and never hides a file that bake build reads now.
func (a *app) initProject(ctx context.Context, from []string) error {
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	if err := checkUninitialised(dir, len(from) > 0); err != nil {
		return err
	}
	var p scaffold.Project
	ext := ".hcl"
	opts := config.Options{Dir: dir, Env: map[string]string{"HOME": a.env("HOME")}}
	if len(from) > 0 {
		p, ext, err = scaffold.From(ctx, opts, from)
	} else {
		p, err = scaffold.New(ctx, opts)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if nothing := (scaffold.ErrNothing{}); errors.As(err, &nothing) || errors.Is(err, fs.ErrNotExist) {
		return usagef("%w", err)
	}
	if err != nil {
		return usagef("bake init: %w", err)
	}
	path := filepath.Join(dir, "bake"+ext)
	if err := writeNew(path, p.Text); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "wrote %s with %s\n", path, plural(p.Targets, "target"))
	for _, n := range p.Notes {
		a.note("%s", n)
	}
	if hidden := append(slices.Clone(p.Compose), from...); len(hidden) > 0 {
		hidden = slices.Compact(hidden)
		a.note("bake build now reads bake%s and not %s; repeat later changes there", ext, strings.Join(hidden, ", "))
	}
	if _, err := os.Lstat(filepath.Join(dir, ".env")); err == nil && len(p.Compose) > 0 {
		a.note("no value of .env is in bake%s; to use the file, add --env-file .env to bake build", ext)
	}
	return nil
}

// checkUninitialised returns an error if dir has a project file, or a docker-bake file that a new one would hide.
func checkUninitialised(dir string, from bool) error {
	for _, name := range config.UsualFiles() {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			continue
		}
		if strings.HasPrefix(name, "bake.") {
			return usagef("%s already exists and was not changed", filepath.Join(dir, name))
		}
		if strings.HasPrefix(name, "docker-bake.") && !from {
			return usagef("bake build reads %[1]s as it is, and a bake.hcl would hide it; to convert it, "+
				"run bake init --from %[1]s", name)
		}
	}
	return nil
}

// writeNew writes a file that must not exist.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s already exists and was not changed", path)
	}
	if err != nil {
		return fmt.Errorf("write the project file: %w", err)
	}
	if _, err := f.WriteString(text); err != nil {
		return errors.Join(fmt.Errorf("write the project file: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the project file: %w", err)
	}
	return nil
}
