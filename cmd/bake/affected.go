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
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded"
	"github.com/bakebuild/bake/executor/revision"
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
		Short: "List the targets whose images a change in git can touch",
		Long: "Affected plans two revisions from their tracked files, and compares what each target is made of: Dockerfiles, project files,\n" +
			"the lock, and of the contexts what steps read. Without --until the second one is the working tree with its untracked files.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.project.targets = args
			return a.affectedCommand(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.StringVar(&o.since, "since", "", "the revision before the change")
	f.StringVar(&o.until, "until", "", "the revision after it; the working tree when not given")
	f.StringVar(&o.format, "format", "text", "text, json, gha-matrix or gitlab")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 6 when a target is affected")
	return cmd
}

func (a *app) affectedCommand(ctx context.Context, o affectedOptions) error {
	if o.since == "" {
		return usagef("affected needs --since REF, such as --since origin/main")
	}
	if !slices.Contains([]string{"text", "json", "gha-matrix", "gitlab"}, o.format) {
		return usagef("--format=%s: expected text, json, gha-matrix or gitlab", o.format)
	}
	c, err := a.newComparison(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	before, after, err := a.compare(ctx, c, o)
	if err != nil {
		return err
	}
	affected := []string{}
	for _, name := range after.order {
		if before.of[name] != after.of[name] {
			affected = append(affected, name)
		}
	}
	if len(c.unknown) > 0 {
		a.note("neither %s nor the store knows %s: what moves there is not seen", config.LockName, strings.Join(c.unknownRefs(), ", "))
	}
	if err := printAffected(a.stdout, o.format, affected, c.unknownRefs()); err != nil {
		return err
	}
	if len(affected) > 0 && o.exitCode {
		return differenceError{plural(len(affected), "target") + " affected"}
	}
	return nil
}

// prints are the fingerprints of targets.
type prints struct {
	order []string
	of    map[string]digest.Digest
}

// compare takes the fingerprints of both revisions.
func (a *app) compare(ctx context.Context, c *comparison, o affectedOptions) (before, after prints, err error) {
	in := *a
	in.dir = c.dir
	now := revision.Record(c.after)
	o.project.view = now
	load := in.loadProject
	if len(o.project.targets) == 0 {
		load = in.wholeProject
	}
	project, err := load(ctx, o.project)
	if err != nil {
		return before, after, err
	}
	if file := readBeside(project, c.after); file != "" {
		return before, after, usagef("compose files may include or extend %s, which is not as in %s: check that out", file, o.until)
	}
	s, err := in.open(false)
	if err != nil {
		return before, after, err
	}
	defer s.Close()
	k := comparing{comparison: c, session: s, taken: s.engine.Fingerprints()}
	if o.until == "" {
		k.memo = s.memo()
	}
	graph, err := k.plan(ctx, project, now)
	if err != nil {
		return before, after, err
	}
	if after, err = k.prints(ctx, graph, c.after); err != nil {
		return before, after, err
	}
	if before, err = k.printsBefore(ctx, o, project, graph, now); err != nil {
		a.note("%s cannot be planned, so every target counts as affected: %v", o.since, err)
		return prints{}, after, nil
	}
	return before, after, nil
}

// comparing plans two revisions and takes their fingerprints.
type comparing struct {
	*comparison
	session *session
	taken   *embedded.Fingerprints
	memo    planner.Memo // for the first plan; nil keeps none
}

// printsBefore are those of the revision before the change, given the graph of the one after it and all that was asked for it. Where
// this revision answers the same, its graph is the same.
func (k *comparing) printsBefore(ctx context.Context, o affectedOptions, after *config.Project, graph *planner.Graph, now *revision.Recorder) (prints, error) {
	if file := readBeside(after, k.before); file != "" {
		return prints{}, fmt.Errorf("compose files may include or extend %s, which changed", file)
	}
	if now.SameIn(k.before) {
		return k.prints(ctx, graph, k.before)
	}
	in := *k.session.app
	o.project.view, o.project.targets = k.before, nil
	opts, err := in.loadOptions(o.project)
	if err != nil {
		return prints{}, err
	}
	all, err := config.List(ctx, opts, "targets")
	if err != nil {
		return prints{}, err
	}
	for _, one := range all {
		if one.Targets == "" && slices.Contains(after.Requested, one.Name) {
			opts.Targets = append(opts.Targets, one.Name)
		}
	}
	if len(opts.Targets) == 0 {
		return prints{}, nil
	}
	project, _, err := config.Load(ctx, opts)
	if err != nil {
		return prints{}, err
	}
	if file := readBeside(project, k.before); file != "" {
		return prints{}, fmt.Errorf("compose files may include or extend %s, which changed", file)
	}
	k.memo = nil
	if graph, err = k.plan(ctx, project, k.before); err != nil {
		return prints{}, err
	}
	return k.prints(ctx, graph, k.before)
}

func (k *comparing) plan(ctx context.Context, project *config.Project, view config.View) (*planner.Graph, error) {
	lock, err := config.ReadLockIn(project.Dir, view)
	if err != nil {
		return nil, err
	}
	return planner.Plan(ctx, project, planner.Options{Resolver: k, Fetcher: k.session.fetcher, Lock: lock, View: view, Memo: k.memo})
}

func (k *comparing) prints(ctx context.Context, graph *planner.Graph, v *revision.View) (prints, error) {
	if !v.Differs() {
		return printsOf(ctx, k.taken, graph, k.dir, nil)
	}
	return printsOf(ctx, k.taken, graph, k.dir, v)
}

// printsOf takes the fingerprint of each target of a graph: of its steps, and of what it says of the image beside them.
func printsOf(ctx context.Context, taken *embedded.Fingerprints, g *planner.Graph, dir string, patch tree.Patch) (prints, error) {
	steps, err := taken.Of(ctx, g, executor.Options{Dir: dir}, patch)
	if err != nil {
		return prints{}, err
	}
	index := map[*planner.Step]int{}
	for i, s := range g.Steps {
		index[s] = i
	}
	p := prints{of: map[string]digest.Digest{}}
	for _, m := range g.Images {
		root := ""
		if m.Root.Step != nil {
			root = fmt.Sprint(steps[index[m.Root.Step]], " ", m.Root.Index)
		}
		var beside []digest.Digest // tests, and the scan of what the image holds
		for _, s := range m.Tests {
			beside = append(beside, steps[index[s]])
		}
		if m.SBOM != nil && m.SBOM.Step != nil {
			beside = append(beside, steps[index[m.SBOM.Step]])
		}
		raw, err := json.Marshal([]any{p.of[m.Target], m.Platform, root, string(m.Config), m.Tags, m.Annotations, m.Outputs, m.Provenance, beside})
		if err != nil {
			return prints{}, err
		}
		if p.of[m.Target] == "" {
			p.order = append(p.order, m.Target)
		}
		p.of[m.Target] = digest.FromBytes(raw)
	}
	return p, nil
}

// ResolveImage answers from the store alone. A base that it does not know is taken for one of a single layer: what a change touches
// does not depend on what is in it, as long as both revisions name the same one.
func (c *comparing) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	known, _, err := c.session.resolver.known(ref, p)
	if err != nil {
		return planner.ResolvedImage{}, err
	}
	if known != nil {
		return *known, nil
	}
	name, pinned := splitDigest(ref)
	if pinned == "" {
		pinned = digest.FromString("unknown")
		c.mu.Lock()
		c.unknown[ref] = true
		c.mu.Unlock()
	}
	// It has a layer, since the front end takes an image without any for scratch, whatever its name and digest are.
	one := fmt.Sprintf(`{"os":%q,"architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, p.OS, p.Architecture, pinned)
	return planner.ResolvedImage{Ref: name, Digest: pinned, Config: []byte(one)}, nil
}

func printAffected(w io.Writer, format string, affected, unknown []string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Version int      `json:"version"`
			Targets []string `json:"targets"`
			Unknown []string `json:"unknownBases"`
		}{1, affected, unknown})
	case "gha-matrix":
		return json.NewEncoder(w).Encode(map[string][]string{"target": affected})
	case "gitlab":
		return printGitLab(w, affected)
	}
	for _, name := range affected {
		if _, err := fmt.Fprintln(w, name); err != nil {
			return err
		}
	}
	return nil
}

// printGitLab writes a child pipeline, which must have a job.
func printGitLab(w io.Writer, affected []string) error {
	if len(affected) == 0 {
		_, err := io.WriteString(w, "nothing-affected:\n  script:\n    - echo no target is affected\n")
		return err
	}
	list, err := json.Marshal(affected)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "build:\n  parallel:\n    matrix:\n      - TARGET: %s\n  script:\n    - bake build \"$TARGET\"\n", list)
	return err
}
