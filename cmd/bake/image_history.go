package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"
)

type historyOptions struct {
	name    string
	json    bool
	noTrunc bool
}

// historyRow is one instruction of an image, as `docker history` shows it.
type historyRow struct {
	Image     string     `json:"image"` // the image's digest on the newest row, else <missing>
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"createdBy"`
	Size      int64      `json:"size"` // packed, bytes; 0 for instructions that make no layer
	Comment   string     `json:"comment,omitempty"`
}

// maxShownInstruction is how much of an instruction the table shows, in characters.
const maxShownInstruction = 60

func newHistoryCommand(a *app, use string) *cobra.Command {
	var o historyOptions
	cmd := &cobra.Command{
		Use:   use,
		Short: "Show the layers of an image, newest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.name = args[0]
			return a.history(o)
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "show instructions and digests whole")
	return cmd
}

func (a *app) history(o historyOptions) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	found, err := findStored(s, o.name)
	if err != nil {
		return err
	}
	image, err := openStored(s, found, platforms.DefaultSpec())
	if err != nil {
		return err
	}
	rows := historyRows(image)
	if o.json {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(rows)
	}
	return a.printHistory(rows, o.noTrunc)
}

// historyRows aligns the history of an image with its layers, newest first. A layer that no line accounts for gets a
// line of its own, so that nothing in the image goes unseen.
func historyRows(image storedImage) []historyRow {
	own := image.Config.Created.Time
	var rows []historyRow
	layer := 0
	for _, h := range image.Config.History {
		row := historyRow{Image: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		row.Created = ageOf(image, h.Created.Time, own)
		if !h.EmptyLayer && layer < len(image.Manifest.Layers) {
			row.Size = image.Manifest.Layers[layer].Size
			layer++
		}
		rows = append(rows, row)
	}
	for ; layer < len(image.Manifest.Layers); layer++ {
		rows = append([]historyRow{{Image: "<missing>", Size: image.Manifest.Layers[layer].Size}}, rows...)
	}
	for i, j := 0, len(rows)-1; i < j; i, j = i+1, j-1 {
		rows[i], rows[j] = rows[j], rows[i]
	}
	if len(rows) > 0 {
		rows[0].Image = image.Digest.String()
	}
	return rows
}

// ageOf is when a line was really made: the reproducible time of own lines says nothing, so they take the store's
// record of the build.
func ageOf(image storedImage, line, own time.Time) *time.Time {
	if image.Kind == "built" && line.Equal(own) {
		line = image.Recorded
	}
	if line.Unix() <= 0 {
		return nil
	}
	return &line
}

func (a *app) printHistory(rows []historyRow, whole bool) error {
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
			if id != "<missing>" {
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
