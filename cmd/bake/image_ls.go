package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"
)

type imageListOptions struct {
	json  bool
	quiet bool
}

// imageRow is one line of `bake image ls`.
type imageRow struct {
	Name     string     `json:"name"`
	Digest   string     `json:"digest"`
	Kind     string     `json:"kind"` // built, or base
	Recorded *time.Time `json:"recorded,omitempty"`
	Size     int64      `json:"size"` // packed, bytes; 0 when the layers were never needed
}

func newImageListCommand(a *app) *cobra.Command {
	var o imageListOptions
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images built here and the bases they stand on",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.listImages(o) },
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print names only")
	return cmd
}

func (a *app) listImages(o imageListOptions) error {
	rows, err := a.imageRows()
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

func (a *app) printImageRows(rows []imageRow) error {
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

// imageRows reads the store: newest first, then by name.
func (a *app) imageRows() ([]imageRow, error) {
	s, err := a.openStore()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	sort.SliceStable(images, func(i, j int) bool {
		if a, b := images[i].Recorded, images[j].Recorded; !a.Equal(b) {
			return a.After(b)
		}
		return images[i].Name < images[j].Name
	})
	rows := make([]imageRow, 0, len(images))
	for _, image := range images {
		row := imageRow{Name: shownName(image.Name), Digest: image.Digest.String(), Kind: image.Kind}
		if !image.Recorded.IsZero() {
			recorded := image.Recorded.UTC()
			row.Recorded = &recorded
		}
		if opened, err := openStored(s, image, platforms.DefaultSpec()); err == nil {
			row.Size = opened.size()
		}
		rows = append(rows, row)
	}
	return rows, nil
}
