package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/images"
)

type historyOptions struct {
	name    string
	json    bool
	noTrunc bool
}

// maxShownInstruction is the maximum length of an instruction in the table, in characters.
const maxShownInstruction = 60

func newHistoryCommand(a *app) *cobra.Command {
	var o historyOptions
	cmd := &cobra.Command{
		Use:     "history NAME",
		Short:   "Show the layers of an image, newest first",
		Example: "  bake image history hello\n  bake image history --no-trunc registry.example.com/api:1.2",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.name = args[0]
			return a.history(o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "do not truncate instructions and digests")
	return cmd
}

func (a *app) history(o historyOptions) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := images.Find(s, o.name)
	if err != nil {
		return err
	}
	image, err := images.Open(s, found, platforms.DefaultSpec())
	if err != nil {
		return err
	}
	rows := image.History()
	if o.json {
		return printJSON(a.stdout, rows)
	}
	return a.printHistory(rows, o.noTrunc)
}

func (a *app) printHistory(rows []images.HistoryRow, whole bool) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tCREATED\tCREATED BY\tSIZE\tCOMMENT")
	now := time.Now()
	for _, r := range rows {
		age, id, by := "-", r.Image, strings.Join(strings.Fields(r.CreatedBy), " ")
		if r.Created != nil {
			age = humanAge(now, *r.Created)
		}
		if !whole {
			by = truncate(by, maxShownInstruction)
			if id != images.NoImage {
				id = shortID(id)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", id, age, by, humanSize(r.Size), r.Comment)
	}
	return w.Flush()
}

// truncate cuts s to at most n characters, the last one an ellipsis.
func truncate(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
