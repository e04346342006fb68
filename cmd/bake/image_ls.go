package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/images"
)

type imageListOptions struct {
	json  bool
	quiet bool
}

func newImageListCommand(a *app) *cobra.Command {
	var o imageListOptions
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images built on this machine and their bases",
		Example: "  bake image ls\n  bake image ls --quiet",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.listImages(o) },
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print names only")
	return cmd
}

func (a *app) listImages(o imageListOptions) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	rows, err := images.List(s)
	if err != nil {
		return err
	}
	if o.json {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	if o.quiet {
		for _, r := range rows {
			fmt.Fprintln(a.stdout, r.Name)
		}
		return nil
	}
	return a.printImageRows(rows)
}

func (a *app) printImageRows(rows []images.Row) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tAGE\tSIZE\tKIND")
	now := time.Now()
	for _, r := range rows {
		age := "-"
		if r.Recorded != nil {
			age = humanAge(now, *r.Recorded)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, shortID(r.Digest), age, humanSize(r.Size), r.Kind)
	}
	return w.Flush()
}
