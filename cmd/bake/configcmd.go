package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
)

func newConfigCommand(a *app) *cobra.Command {
	var schema bool
	cmd := &cobra.Command{
		Use:   "config --schema",
		Short: "Print the JSON Schema of project files, for editors",
		Long: "Print the JSON Schema of bake.json and bake.yaml for editors; this requires --schema.\n" +
			"To print the evaluated project, run bake build --print.",
		Example: "  bake config --schema > bake.schema.json\n  bake config --schema | jq .title",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !schema {
				return cmd.Help()
			}
			raw, err := config.Schema()
			if err != nil {
				return fmt.Errorf("encode the JSON Schema: %w", err)
			}
			_, err = fmt.Fprintln(a.stdout, string(raw))
			return err
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema")
	return cmd
}

func newInitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "init",
		Short:   "Write a bake.hcl for the compose file or the Dockerfiles of this directory",
		Example: "  bake init\n  bake init && bake build --print",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.initProject(cmd.Context()) },
	}
}

// initProject writes bake.hcl. It never overwrites one.
func (a *app) initProject(ctx context.Context) error {
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	content, count, compose, err := config.Init(ctx, dir, a.environ)
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("%w", err)
	}
	if err != nil {
		return fmt.Errorf("find a compose file or Dockerfiles: %w", err)
	}
	path := filepath.Join(dir, "bake.hcl")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s already exists and was not changed", path)
	}
	if err != nil {
		return fmt.Errorf("write the project file: %w", err)
	}
	if _, err := f.WriteString(content); err != nil {
		return errors.Join(fmt.Errorf("write the project file: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the project file: %w", err)
	}
	fmt.Fprintf(a.stdout, "wrote %s with %s\n", path, plural(count, "target"))
	if compose != "" {
		a.note("bake build now reads bake.hcl and not %s; repeat changes of its services in bake.hcl", compose)
	}
	return nil
}
