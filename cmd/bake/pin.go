package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner/pins"
)

// The formats of `bake pin --format`.
const (
	formatSourcePolicy = "source-policy"
	formatBakeHCL      = "bake-hcl"
)

type pinOptions struct {
	project projectOptions
	noPrune bool
	inPlace bool
	resolve bool
	copyTo  string
	format  string
	allow   []string
}

func newPinCommand(a *app) *cobra.Command {
	var o pinOptions
	cmd := &cobra.Command{
		Use:   "pin [TARGET|NAME…]",
		Short: "Pin image digests, git commits and file checksums in " + config.LockName,
		Long: "Add the images, git repositories and URLs that the project uses and that " + config.LockName +
			" does not pin yet.\n" +
			"Remove pins that no target uses. To change existing pins, run bake update.\n\n" +
			"A TARGET limits pinning to what that target uses. A NAME is a reference, or a base block of the\n" +
			"project. A reference may be shortened to its last path components, and may contain *.",
		Example: "  bake pin\n  bake pin --copy-to registry.example.com/mirror",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.pinCommand(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.noPrune, "no-prune", false, "keep pins that no target uses")
	f.BoolVar(&o.inPlace, "in-place", false,
		"write digests into the Dockerfiles instead: after references in FROM, COPY --from and RUN --mount")
	f.StringArrayVar(&o.allow, "allow", nil, "permit --in-place to change files outside the project: fs.read=PATH")
	f.BoolVar(&o.resolve, "resolve", false,
		"resolve merge conflicts in "+config.LockName+"; re-resolve pins that differ")
	f.StringVar(&o.copyTo, "copy-to", "",
		"copy the images to repositories below this one, such as registry.example.com/mirror; builds pull the copies")
	f.StringVar(&o.format, "format", "",
		"print the pins instead of writing them: source-policy (for BuildKit and buildx) or bake-hcl (for Docker Bake)")
	return cmd
}

func (a *app) pinCommand(ctx context.Context, o pinOptions, args []string) error {
	if err := o.check(); err != nil {
		return err
	}
	names, err := a.splitNames(ctx, &o.project, args)
	if err != nil {
		return err
	}
	var c lockChange
	if o.resolve {
		c.read = a.readConflicted
	}
	p, err := a.planLock(ctx, o.project, c)
	if err != nil {
		return err
	}
	defer p.Close()
	if o.inPlace {
		if err := a.checkGrants(p.Project, o.allow); err != nil {
			return err
		}
		return a.pinInPlace(p.Plan)
	}
	whole := len(o.project.targets) == 0 && len(names) == 0
	changes, err := p.AddMissing(ctx, names, whole && !o.noPrune)
	if err != nil {
		return err
	}
	if o.format != "" {
		return a.printPins(p.Plan, o.format)
	}
	copied, err := p.CopyImages(ctx, o.copyTo)
	if err != nil {
		return err
	}
	changes = append(changes, copied...)
	if len(changes) > 0 || o.resolve {
		if err := p.Lock.Write(p.Project.Dir); err != nil {
			return err
		}
	}
	for _, c := range changes {
		fmt.Fprintln(a.stdout, c)
	}
	fmt.Fprintf(a.stderr, "%s: %s, %s in total\n",
		config.LockName, plural(len(changes), "change"), plural(p.Lock.Len(), "pin"))
	return nil
}

// check rejects flags that cannot be combined.
func (o *pinOptions) check() error {
	if o.format != "" && o.format != formatSourcePolicy && o.format != formatBakeHCL {
		return usagef("--format=%s: expected %s or %s", o.format, formatSourcePolicy, formatBakeHCL)
	}
	var given []string
	for name, on := range map[string]bool{
		"--in-place": o.inPlace, "--format": o.format != "", "--copy-to": o.copyTo != "", "--resolve": o.resolve,
	} {
		if on {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	if len(given) > 1 && !slices.Equal(given, []string{"--copy-to", "--resolve"}) {
		return usagef("%s cannot be combined; use one of them", strings.Join(given, " and "))
	}
	if o.copyTo == "" {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(o.copyTo)
	if err != nil || !reference.IsNameOnly(named) || !strings.Contains(o.copyTo, "/") {
		return usagef("--copy-to=%s: expected a repository without a tag, such as registry.example.com/mirror",
			o.copyTo)
	}
	return nil
}

// splitNames adds the arguments that are targets or groups to o.targets, and returns the others.
func (a *app) splitNames(ctx context.Context, o *projectOptions, args []string) (names []string, err error) {
	if len(args) == 0 {
		return nil, nil
	}
	opts, err := a.loadOptions(ctx, *o)
	if err != nil {
		return nil, err
	}
	known, err := config.Names(ctx, opts)
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		if slices.Contains(known, arg) {
			o.targets = append(o.targets, arg)
		} else {
			names = append(names, arg)
		}
	}
	return names, nil
}

// readConflicted reads a lock with conflict markers. Pins that differ are missing from it.
func (a *app) readConflicted(dir string) (*config.Lock, error) {
	lock, conflicted, err := config.ReadConflictedLock(dir)
	if len(conflicted) > 0 {
		a.note("re-resolving pins that differ between the merge sides: %s", strings.Join(conflicted, ", "))
	}
	return lock, err
}

// printPins prints the pins for another tool.
func (a *app) printPins(p *pins.Plan, format string) error {
	if format == formatSourcePolicy {
		return printIndented(a.stdout, p.SourcePolicy())
	}
	if _, err := fmt.Fprint(a.stdout, p.BakeHCL()); err != nil {
		return err
	}
	if n := len(p.Graph.Sources); n > 0 {
		a.note("%s not pinned: a Bake file can pin only images; for git and HTTP, use --format=%s",
			plural(n, "source"), formatSourcePolicy)
	}
	return nil
}

// pinInPlace writes digests into the Dockerfiles. It prints the names of changed files, and notes what was left.
func (a *app) pinInPlace(p *pins.Plan) error {
	cacheDir, err := a.cacheDir()
	if err != nil {
		return err
	}
	files, err := p.PinInPlace(cacheDir)
	for _, f := range files {
		if f.Skipped != "" {
			a.note("%s not changed: %s", f.Name, f.Skipped)
		}
		for _, l := range f.Left {
			a.note("%s:%d: %s not changed: it contains a variable", f.Name, l.Line, l.Word)
		}
		if f.Changed {
			fmt.Fprintln(a.stdout, f.Name)
		}
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.Project.Bases)) {
		a.note("%sbase %s not changed: base blocks are pinned in %s; run bake pin",
			placeOfRange(p.Project.Bases[name].Range), name, config.LockName)
	}
	return nil
}
