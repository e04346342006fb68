package main

import (
	"fmt"

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
		RunE: func(*cobra.Command, []string) error {
			if !schema {
				return usagef("bake config needs --schema; to print the evaluated project, run bake build --print")
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
