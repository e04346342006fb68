package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
)

type pinOptions struct {
	project projectOptions
	noPrune bool
	inPlace bool
	resolve bool
	copyTo  string
	format  string
}

func newPinCommand(a *app) *cobra.Command {
	var o pinOptions
	cmd := &cobra.Command{
		Use:   "pin [TARGET|NAME…]",
		Short: "Write what the bases of a project stand for into " + config.LockName,
		Long: "Pin adds the bases, git repositories and URLs that " + config.LockName + " lacks, and drops those that no target of the project\n" +
			"uses. It never moves a pin: bake update does. Names of targets add what these use; other names are references, as\n" +
			"short as you like and with * in them, or base blocks.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.pinCommand(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.BoolVar(&o.noPrune, "no-prune", false, "keep entries that no target uses")
	f.BoolVar(&o.inPlace, "in-place", false, "write the digests into the Dockerfiles instead, after the references in FROM, COPY --from and RUN --mount")
	f.BoolVar(&o.resolve, "resolve", false, "mend a "+config.LockName+" with the marks of a merge conflict: what the sides disagree on is asked for anew")
	f.StringVar(&o.copyTo, "copy-to", "", "copy the images to repositories below this one, such as registry.example.com/mirror; builds take them from there")
	f.StringVar(&o.format, "format", "", "print the pins for other tools, and write nothing: source-policy (BuildKit, buildx) or bake-hcl (Docker Bake)")
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
		return a.pinInPlace(p)
	}
	whole := len(o.project.targets) == 0 && len(names) == 0
	changes, err := p.pinMissing(ctx, names, whole && !o.noPrune)
	if err != nil {
		return err
	}
	if o.format != "" {
		return a.printPins(p, o.format)
	}
	copied, err := p.copyImages(ctx, o.copyTo)
	if err != nil {
		return err
	}
	changes = append(changes, copied...)
	if len(changes) > 0 || o.resolve {
		if err := p.lock.Write(p.project.Dir); err != nil {
			return err
		}
	}
	for _, line := range changes {
		fmt.Fprintln(a.stdout, line)
	}
	fmt.Fprintf(a.stderr, "%s: %s, %s in all\n", config.LockName, plural(len(changes), "change"), plural(p.lock.Len(), "pin"))
	return nil
}

// check refuses flags that do not go together.
func (o *pinOptions) check() error {
	if o.format != "" && o.format != formatSourcePolicy && o.format != formatBakeHCL {
		return usagef("--format=%s: expected %s or %s", o.format, formatSourcePolicy, formatBakeHCL)
	}
	var given []string
	for name, on := range map[string]bool{"--in-place": o.inPlace, "--format": o.format != "", "--copy-to": o.copyTo != "", "--resolve": o.resolve} {
		if on {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	if len(given) > 1 && !slices.Equal(given, []string{"--copy-to", "--resolve"}) {
		return usagef("%s do different things: give one of them", strings.Join(given, " and "))
	}
	if o.copyTo == "" {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(o.copyTo)
	if err != nil || !reference.IsNameOnly(named) || !strings.Contains(o.copyTo, "/") {
		return usagef("--copy-to=%s: expected a repository without a tag, such as registry.example.com/mirror", o.copyTo)
	}
	return nil
}

// splitNames takes the targets and groups out of the arguments; what is left means references.
func (a *app) splitNames(ctx context.Context, o *projectOptions, args []string) (names []string, err error) {
	if len(args) == 0 {
		return nil, nil
	}
	opts, err := a.loadOptions(*o)
	if err != nil {
		return nil, err
	}
	rows, err := config.List(ctx, opts, "targets")
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		if config.IsRemote(arg) || slices.ContainsFunc(rows, func(r config.Listed) bool { return r.Name == arg }) {
			o.targets = append(o.targets, arg)
		} else {
			names = append(names, arg)
		}
	}
	return names, nil
}

// readConflicted reads a lock after a merge, and tells what its sides disagree on.
func (a *app) readConflicted(dir string) (*config.Lock, error) {
	lock, conflicted, err := config.ReadConflictedLock(dir)
	if len(conflicted) > 0 {
		a.note("the sides of the merge pin %s to different things", strings.Join(conflicted, ", "))
	}
	return lock, err
}

// pinMissing adds to the lock what it lacks, of the names given or all, and takes away what nothing uses.
func (p *lockPlan) pinMissing(ctx context.Context, names []string, prune bool) (changes []string, err error) {
	missing := unlocked(p.lock, p.graph)
	var known []string
	for _, b := range p.graph.Bases {
		known = append(known, b.Ref)
	}
	for _, s := range p.graph.Sources {
		known = append(known, s.Key)
	}
	wanted, err := selectKeys(p.project, known, names)
	if err != nil {
		return nil, err
	}
	for _, key := range missing {
		if !wanted(key) {
			continue
		}
		if err := p.pin(ctx, key); err != nil {
			return nil, err
		}
		changes = append(changes, "+ "+key+" "+p.lock.Pin(key))
	}
	if prune {
		for _, key := range unused(p.lock, p.graph) {
			p.lock.Delete(key)
			changes = append(changes, "- "+key)
		}
	}
	return changes, nil
}

// copyImages copies the pinned images of the plan below a repository, and notes in the lock that they are there.
func (p *lockPlan) copyImages(ctx context.Context, to string) (changes []string, err error) {
	if to == "" {
		return nil, nil
	}
	for _, b := range p.graph.Bases {
		pin, ok := p.lock.Images[b.Ref]
		if !ok {
			continue
		}
		place, err := copyPlace(to, b.Ref)
		if err != nil {
			return nil, err
		}
		if err := p.copyImage(ctx, b.Ref, pin, place); err != nil {
			return nil, err
		}
		if pin.From != place {
			pin.From = place
			p.lock.Images[b.Ref] = pin
			changes = append(changes, "> "+b.Ref+" "+place)
		}
	}
	return changes, nil
}

// copyPlace is the repository below another that an image is copied to.
func copyPlace(to, ref string) (string, error) {
	below, err := reference.ParseNormalizedNamed(to)
	if err != nil {
		return "", usagef("--copy-to=%s: %w", to, err)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	return below.Name() + "/" + reference.Path(named), nil
}

// copyImage copies what a pin names to a repository, from where it is kept now. There it has a tag of its own that never moves,
// so that a registry which removes what no tag names keeps it.
func (p *lockPlan) copyImage(ctx context.Context, ref string, pin config.ImagePin, place string) error {
	from := ref
	if pin.From != "" && pin.From != place {
		from = pin.From
	}
	tag := ref[strings.LastIndex(ref, ":")+1:]
	hex := pin.Digest.Encoded()[:12]
	return p.client.Copy(ctx, from+"@"+pin.Digest.String(), place+":"+tag[:min(len(tag), 100)]+"-"+hex)
}
