package scaffold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// options returns the options that load a text as the project file, with nothing of the environment.
func (w *writer) options(text string, targets ...string) config.Options {
	return config.Options{Dir: w.opts.Dir, Files: []string{"-"}, Stdin: strings.NewReader(text), Targets: targets,
		Env: map[string]string{}}
}

// checkNames returns an error unless a text defines exactly the targets of the writer. Names, paths and messages in it
// come from files that others wrote; none of them may become a part of the project file.
func (w *writer) checkNames(ctx context.Context, text string) error {
	got, err := config.TargetNames(ctx, w.options(text))
	if err != nil {
		return fmt.Errorf("the text of the new project file is invalid: %w", err)
	}
	var want []string
	for _, t := range w.targets {
		want = append(want, t.name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("the text of the new project file has the targets %q instead of %q", got, want)
	}
	return nil
}

// checkPlans plans the group "default" as bake plan would, with the same file and access, but with images that exist
// whatever they are called. A target that fails gets the reason. Targets with URLs cannot be planned without a network.
func (w *writer) checkPlans(ctx context.Context) error {
	text := w.text()
	if err := w.checkNames(ctx, text); err != nil {
		return err
	}
	w.followLinks(func(t *target) bool { return t.remote }, func(t *target, _ string) { t.remote = true })
	blocked := func(t *target, link string) { t.reasons = append(t.reasons, "it needs the target "+link) }
	failed := func(t *target) bool { return len(t.reasons) > 0 }
	w.followLinks(failed, blocked)
	var names []string
	for _, t := range w.targets {
		if !t.remote && len(t.reasons) == 0 {
			names = append(names, t.name)
		}
	}
	errs := map[string]error{}
	if err := w.load(ctx, text, names, errs); err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return errs[name] != nil })
	if err := w.plan(ctx, text, names, errs); err != nil {
		return err
	}
	for _, t := range w.targets {
		if err := errs[t.name]; err != nil {
			t.reasons = append(t.reasons, printable(err.Error()))
		}
	}
	w.followLinks(failed, blocked)
	return ctx.Err()
}

// followLinks calls mark for each target that links to one with a property and does not have it, until there is none.
// mark must give it the property.
func (w *writer) followLinks(has func(*target) bool, mark func(t *target, link string)) {
	users := map[string][]*target{}
	var queue []*target
	for _, t := range w.targets {
		for _, link := range t.links {
			users[link] = append(users[link], t)
		}
		if has(t) {
			queue = append(queue, t)
		}
	}
	for len(queue) > 0 {
		link := queue[0]
		queue = queue[1:]
		for _, t := range users[link.name] {
			if !has(t) {
				mark(t, link.name)
				queue = append(queue, t)
			}
		}
	}
}

// load records the errors of the targets that cannot be evaluated. It halves the targets until an error has one.
func (w *writer) load(ctx context.Context, text string, names []string, errs map[string]error) error {
	if len(names) == 0 {
		return ctx.Err()
	}
	_, _, err := config.Load(ctx, w.options(text, names...))
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if len(names) == 1 {
		message, _, _ := strings.Cut(err.Error(), "\n")
		if _, rest, ok := strings.Cut(message, ": "); ok && strings.HasPrefix(message, "-:") {
			message = rest // the place in the text of now
		}
		errs[names[0]] = errors.New(message)
		return nil
	}
	half := len(names) / 2
	if err := w.load(ctx, text, names[:half], errs); err != nil {
		return err
	}
	return w.load(ctx, text, names[half:], errs)
}

// plan records the errors of the targets that need a grant or cannot be planned.
func (w *writer) plan(ctx context.Context, text string, names []string, errs map[string]error) error {
	if len(names) == 0 {
		return nil
	}
	project, _, err := config.Load(ctx, w.options(text, names...))
	if err != nil {
		return err
	}
	for _, name := range names {
		one := *project
		one.Targets = map[string]*config.Target{name: project.Targets[name]}
		missing, err := config.Grants{}.Missing(&one, true)
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("it needs --allow %s", strings.Join(missing, " --allow "))
		}
		if err != nil {
			errs[name] = err
		}
	}
	graph, err := planner.Plan(ctx, project, planner.Options{Resolver: anyImage{}, KeepGoing: true,
		Platform: ocispecs.Platform{OS: "linux", Architecture: platforms.DefaultSpec().Architecture}})
	if ctx.Err() != nil || err == nil {
		return ctx.Err()
	}
	planned := map[string]bool{}
	if graph != nil {
		for _, image := range graph.Images {
			planned[image.Target] = true
		}
	}
	messages := planErrors(err)
	for _, name := range names {
		if !planned[name] && errs[name] == nil {
			errs[name] = messages[name]
			if errs[name] == nil {
				errs[name] = errors.New("it cannot be planned; bake plan says why")
			}
		}
	}
	return nil
}

// planErrors returns the errors of a plan by target, without the name of the target.
func planErrors(err error) map[string]error {
	all := map[string]error{}
	list := planner.Errors{err}
	if many := (planner.Errors{}); errors.As(err, &many) {
		list = many
	}
	for _, one := range list {
		var file *planner.DockerfileError
		var base *planner.BaseError
		name := ""
		switch {
		case errors.As(one, &file):
			name = file.Target
		case errors.As(one, &base):
			name = base.Target
		}
		all[name] = errors.New(strings.TrimPrefix(one.Error(), "target "+name+": "))
	}
	return all
}

// anyImage resolves every reference.
type anyImage struct{}

// ResolveImage implements planner.Resolver.
func (anyImage) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	layer := digest.FromString(ref)
	raw, err := json.Marshal(ocispecs.Image{
		Platform: p, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}},
	})
	return planner.ResolvedImage{Ref: ref, Digest: layer, Config: raw, Layers: 1}, err
}
