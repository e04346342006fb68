package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
)

func newReportCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "report [BUILD] -o FILE",
		Short: "Write an HTML page about a build: times, graph, images, and why each step ran",
		Long: "Write one HTML page about a build. The page needs no network and no other file.\n\n" +
			aboutBuild + defaultBuild,
		Example: "  bake report -o report.html\n  bake report --output report.html 7e6oz3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.writeReport(append(args, "")[0], output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write; - is standard output")
	return cmd
}

// writeReport writes the page about a build. The file is replaced only by a complete page.
func (a *app) writeReport(build, output string) error {
	if output == "" {
		return usagef("no output file; use bake report -o report.html, or -o - for standard output")
	}
	var page bytes.Buffer
	err := a.withBuild(build, func(s *cache.Store, run report.Run) error {
		return run.WriteHTML(&page, func(name string) (io.ReadSeekCloser, error) { return s.OpenLog(name) })
	})
	if err != nil {
		return err
	}
	if output == "-" {
		_, err := a.stdout.Write(page.Bytes())
		return err
	}
	if err := executor.WriteFile(output, page.Bytes()); err != nil {
		return fmt.Errorf("write the report %s: %w", output, err)
	}
	return nil
}
