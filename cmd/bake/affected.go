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
	s, err := a.open(false)
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := a.newComparison(ctx, s, o)
	if err != nil {
		return err
	}
	defer c.Close()
	after, err := c.prints(ctx, c.after, o.project)
	if err != nil {
		return err
	}
	before, err := c.prints(ctx, c.before, projectOptions{files: o.project.files, set: o.project.set, vars: o.project.vars, envFiles: o.project.envFiles})
	if err != nil {
		a.note("%s cannot be planned, so every target counts as affected: %v", o.since, err)
		before = prints{}
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

// prints plans the project in a directory and takes the fingerprint of each target.
func (c *comparison) prints(ctx context.Context, dir string, o projectOptions) (prints, error) {
	in := *c.app
	in.dir = dir
	load := in.loadProject
	if len(o.targets) == 0 {
		load = in.wholeProject
	}
	project, err := load(ctx, o)
	if err != nil {
		return prints{}, err
	}
	lock, err := config.ReadLock(project.Dir)
	if err != nil {
		return prints{}, err
	}
	graph, err := planner.Plan(ctx, project, planner.Options{Resolver: c, Fetcher: c.session.fetcher, Lock: lock})
	if err != nil {
		return prints{}, err
	}
	return c.session.prints(ctx, graph, dir)
}

// prints takes the fingerprint of each target of a graph: of its steps, and of what it says of the image beside them.
func (s *session) prints(ctx context.Context, g *planner.Graph, dir string) (prints, error) {
	steps, err := s.engine.Fingerprints(ctx, g, executor.Options{Dir: dir})
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
		var tests []digest.Digest
		for _, s := range m.Tests {
			tests = append(tests, steps[index[s]])
		}
		raw, err := json.Marshal([]any{p.of[m.Target], m.Platform, root, string(m.Config), m.Tags, m.Annotations, tests})
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

// ResolveImage answers from the store alone. A base that it does not know is taken for an empty one: what a change touches
// does not depend on what is in it, as long as both revisions name the same one.
func (c *comparison) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
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
	empty := fmt.Sprintf(`{"os":%q,"architecture":%q,"rootfs":{"type":"layers","diff_ids":[]}}`, p.OS, p.Architecture)
	return planner.ResolvedImage{Ref: name, Digest: pinned, Config: []byte(empty)}, nil
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
