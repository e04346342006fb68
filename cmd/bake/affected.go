package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/affected"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

type affectedOptions struct {
	project      projectOptions
	since, until string
	format       string
	exitCode     bool
}

func newAffectedCommand(a *app) *cobra.Command {
	var o affectedOptions
	cmd := &cobra.Command{
		Use:   "affected --since REF [--until REF] [TARGET…]",
		Short: "List targets affected by a change in git",
		Long: "Plan two revisions from their tracked files and compare everything that each image\n" +
			"depends on: Dockerfiles, project files, bake.lock, and the files of build contexts that steps read.\n" +
			"Without --until, the second revision is the working tree with its untracked files.",
		Example: "  bake affected --since origin/main\n  bake affected --since HEAD~1 --until HEAD --format gha-matrix",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			return a.affectedCommand(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.StringVar(&o.since, "since", "", "revision before the change")
	f.StringVar(&o.until, "until", "", "revision after the change (default the working tree)")
	f.StringVar(&o.format, "format", "text", "output format: text, json, gha-matrix or gitlab")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 6 if a target is affected")
	return cmd
}

func (a *app) affectedCommand(ctx context.Context, o affectedOptions) error {
	if o.since == "" {
		return usagef("affected needs --since REF, such as --since origin/main")
	}
	if !slices.Contains([]string{"text", "json", "gha-matrix", "gitlab"}, o.format) {
		return usagef("--format=%s: expected text, json, gha-matrix or gitlab", o.format)
	}
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	c, err := affected.Open(ctx, dir, o.since, o.until)
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := a.compare(ctx, c, o)
	if err != nil {
		return err
	}
	if found.EarlierErr != nil {
		a.note("%s cannot be planned, so every target counts as affected: %v", o.since, found.EarlierErr)
	}
	if len(found.UnknownBases) > 0 {
		a.note("no digest known for %s (not in %s or the local store); changes to these images are not detected",
			strings.Join(found.UnknownBases, ", "), config.LockName)
	}
	if err := printAffected(a.stdout, o.format, found.Targets, found.UnknownBases); err != nil {
		return err
	}
	if len(found.Targets) > 0 && o.exitCode {
		return differenceError{plural(len(found.Targets), "target") + " affected"}
	}
	return nil
}

// compare loads the project of the later revision and compares both revisions.
func (a *app) compare(ctx context.Context, c *affected.Comparison, o affectedOptions) (affected.Result, error) {
	in := *a
	in.dir = c.Dir()
	o.project.view = c.Later()
	load := in.loadProject
	if len(o.project.targets) == 0 {
		load = in.wholeProject
	}
	project, err := load(ctx, o.project)
	if err != nil {
		return affected.Result{}, err
	}
	s, err := in.open(false)
	if err != nil {
		return affected.Result{}, err
	}
	defer s.Close()
	fingerprints := keys.NewFingerprints(s.store.StatIndexDir())
	return c.Compare(ctx, project, affected.Sources{
		Base: s.storedBase, Fetcher: s.fetcher, Memo: s.memo(),
		EarlierOptions: func(view config.View) (config.Options, error) {
			earlier := o.project
			earlier.view, earlier.targets = view, nil
			return in.loadOptions(ctx, earlier)
		},
		Fingerprints: func(ctx context.Context, g *planner.Graph, patch tree.Patch) ([]digest.Digest, error) {
			steps, err := fingerprints.Steps(ctx, g, patch)
			return steps, fingerprintError(err)
		},
	})
}

// storedBase implements affected.Sources.Base: it answers from the store.
func (s *session) storedBase(ref string, p ocispecs.Platform) (planner.ResolvedImage, bool, error) {
	known, _, err := s.resolver.Stored(ref, p)
	if err == nil && known != nil {
		return *known, true, nil
	}
	name, pinned := images.SplitDigest(ref)
	return planner.ResolvedImage{Ref: name, Digest: pinned}, false, err
}

func printAffected(w io.Writer, format string, targets, unknown []string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Version int      `json:"version"`
			Targets []string `json:"targets"`
			Unknown []string `json:"unknownBases"`
		}{1, targets, unknown})
	case "gha-matrix":
		return json.NewEncoder(w).Encode(map[string][]string{"target": targets})
	case "gitlab":
		return printGitLab(w, targets)
	}
	for _, name := range targets {
		if _, err := fmt.Fprintln(w, name); err != nil {
			return err
		}
	}
	return nil
}

// printGitLab writes a child pipeline for GitLab. GitLab rejects a pipeline without a job, so there is always one.
func printGitLab(w io.Writer, targets []string) error {
	if len(targets) == 0 {
		_, err := io.WriteString(w, "nothing-affected:\n  script:\n    - echo no target is affected\n")
		return err
	}
	list, err := json.Marshal(targets)
	if err != nil {
		return err
	}
	const job = "build:\n  parallel:\n    matrix:\n      - TARGET: %s\n  script:\n    - bake build \"$TARGET\"\n"
	_, err = fmt.Fprintf(w, job, list)
	return err
}
