package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/executor/cache"
)

func newCacheUsageCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show the disk usage of the cache, by target and by part",
		Long: "Show the disk space that each target and each part of the cache occupies.\n" +
			"EXCLUSIVE is used by this target only, SHARED also by others.\n" +
			"Hard links count once; sparse files count their allocated blocks.",
		Example: "  bake cache du\n  bake cache du --json",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.cacheUsage(asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) cacheUsage(asJSON bool) error {
	s, err := a.openStore()
	if err != nil {
		return err
	}
	defer s.Close()
	limits, err := a.cacheLimits(s.Dir())
	if err != nil {
		return err
	}
	usage, err := s.Usage()
	if err != nil {
		return err
	}
	v := newUsageView(s.Dir(), usage, limits)
	if asJSON {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	if err := v.print(a.stdout, time.Now()); err != nil {
		return err
	}
	if v.Limit > 0 && v.Roots > v.Limit {
		a.note("tagged images and pins occupy %s, the limit is %s; remove images with bake image rm, or raise %s",
			humanSize(v.Roots), humanSize(v.Limit), envCacheSize)
	}
	return nil
}

// usageView is the output of `bake cache du`; its JSON is versioned. Sizes are in bytes.
type usageView struct {
	Version   int              `json:"version"`
	Dir       string           `json:"dir"`
	Limit     int64            `json:"limit"`   // 0 is no limit
	Reserve   int64            `json:"reserve"` // free space to leave; 0 is none
	DiskFree  int64            `json:"diskFree"`
	Total     int64            `json:"total"`
	Parts     map[string]int64 `json:"parts"`
	Roots     int64            `json:"roots"`
	Busy      int64            `json:"busy"`
	Freeable  int64            `json:"freeable"`
	Targets   []usageTarget    `json:"targets"`
	Unclaimed int64            `json:"unclaimed"`
}

// usageTarget is the disk usage of one target.
type usageTarget struct {
	Project   string    `json:"project"`
	Target    string    `json:"target"`
	Exclusive int64     `json:"exclusive"`
	Shared    int64     `json:"shared"`
	Built     time.Time `json:"built"`
}

// partNotes lists the parts of a cache in the order of the output.
var partNotes = [...]struct{ name, note string }{
	{"layers", "unpacked, as steps see them"},
	{"blobs", "compressed layers, manifests and configs"},
	{"mounts", "cache mounts"},
	{"entries", "results of steps"},
	{"logs", "output of steps"},
	{"other", "build history, resolved tags, indexes, locks"},
}

// newUsageView returns the view of a usage and its limits.
func newUsageView(dir string, u cache.Usage, l cache.Limits) usageView {
	v := usageView{
		Version: 1, Dir: dir, Limit: l.Size, Reserve: l.Reserve, DiskFree: u.Free, Total: u.Total,
		Parts: map[string]int64{
			"layers": u.Layers, "blobs": u.Blobs, "mounts": u.Mounts,
			"entries": u.Entries, "logs": u.Logs, "other": u.Other,
		},
		Roots: u.Roots, Busy: u.Busy, Freeable: u.Freeable, Targets: []usageTarget{}, Unclaimed: u.Unreferenced,
	}
	for _, t := range u.Targets {
		v.Targets = append(v.Targets, usageTarget{t.Project, t.Target, t.Exclusive, t.Shared, t.Built.UTC()})
	}
	return v
}

func (v usageView) print(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	if len(v.Targets) > 0 {
		fmt.Fprintln(w, "TARGET\tEXCLUSIVE\tSHARED\tBUILT\tPROJECT")
		for _, t := range v.Targets {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n",
				t.Target, humanSize(t.Exclusive), humanSize(t.Shared), humanAge(now, t.Built), t.Project)
		}
		fmt.Fprintf(w, "(no target)\t%s\t\t\t\n", humanSize(v.Unclaimed))
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	for _, p := range partNotes {
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.name, humanSize(v.Parts[p.name]), p.note)
	}
	fmt.Fprintf(w, "total\t%s\t%s\n", humanSize(v.Total), v.limits())
	fmt.Fprintf(w, "kept\t%s\ttagged images and pins\n", humanSize(v.Roots))
	if v.Busy > 0 {
		fmt.Fprintf(w, "in use\t%s\tby builds that run now\n", humanSize(v.Busy))
	}
	fmt.Fprintf(w, "reclaimable\t%s\twith bake cache prune --all\n", humanSize(v.Freeable))
	return w.Flush()
}

// limits returns a text about the limits of the cache and the free space of its disk.
func (v usageView) limits() string {
	text := "no limit (" + envCacheSize + ")"
	if v.Limit > 0 {
		text = fmt.Sprintf("of at most %s (%s)", humanSize(v.Limit), envCacheSize)
	}
	text += fmt.Sprintf("; the disk has %s free", humanSize(v.DiskFree))
	if v.Reserve > 0 {
		text += fmt.Sprintf(", %s of it reserved (%s)", humanSize(v.Reserve), envCacheReserve)
	}
	return text
}
