package embedded

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/planner"
)

// explanation compares the parts of a step's key with those of its nearest earlier run.
type explanation struct {
	k   *keyed
	now keys.Parts
	// open are the inputs whose part of the key is unknown until they have run; only a preview has some.
	open   []input
	old    cache.PastRun
	causes []executor.Cause
}

// explain returns why the step runs, or would run. now are the known keys.Parts of its key.
func (k *keyed) explain(ctx context.Context, now keys.Parts, open []input) []executor.Cause {
	if k.n.forced() {
		return []executor.Cause{{Kind: executor.CauseForced}}
	}
	x := &explanation{k: k, now: now, open: open}
	if from := k.unnamed(); from != "" {
		return []executor.Cause{{Kind: executor.CauseUnnamed, Name: from}}
	}
	var ok bool
	if x.old, ok = k.nearest(now); !ok {
		return []executor.Cause{{Kind: executor.CauseNew}}
	}
	x.compare(ctx)
	for _, in := range open {
		x.add(executor.Cause{Kind: executor.CauseInput, Step: in.node.step.Digest})
	}
	if len(x.causes) == 0 {
		x.add(executor.Cause{Kind: executor.CausePruned})
	}
	return x.ordered()
}

// add adds a cause unless it is already there.
func (x *explanation) add(c executor.Cause) {
	same := func(o executor.Cause) bool { return o.Kind == c.Kind && o.Name == c.Name && o.Step == c.Step }
	if !slices.ContainsFunc(x.causes, same) {
		x.causes = append(x.causes, c)
	}
}

// ordered sorts the causes: those that explain most first, those that follow from other steps last.
func (x *explanation) ordered() []executor.Cause {
	rank := []executor.CauseKind{
		executor.CauseBase, executor.CauseInstruction, executor.CauseVariable, executor.CauseOption,
		executor.CauseFiles,
		executor.CausePruned, executor.CauseInput,
	}
	slices.SortStableFunc(x.causes, func(a, b executor.Cause) int {
		return cmp.Compare(slices.Index(rank, a.Kind), slices.Index(rank, b.Kind))
	})
	return x.causes
}

// compare adds a cause for each part that differs.
func (x *explanation) compare(ctx context.Context) {
	unknown := x.openNames()
	for _, d := range keys.Compare(x.old.Inputs, x.now,
		func(name string) bool { return slices.Contains(unknown, name) }) {
		x.part(ctx, d.Name, d.Old, d.New)
	}
}

// openNames returns the names of the unknown keys.Parts.
func (x *explanation) openNames() []string {
	var list []string
	for _, w := range x.k.whole {
		if slices.Contains(x.open, w.in) {
			list = append(list, w.name)
		}
	}
	for _, r := range x.k.reads {
		if slices.Contains(x.open, r.in) {
			list = append(list, keys.PartContent+r.name)
		}
	}
	return list
}

// part adds the cause for one part that differs.
func (x *explanation) part(ctx context.Context, name string, a, b []key.Part) {
	switch {
	case name == keys.PartCommand, strings.HasPrefix(name, keys.PartAction):
		x.add(x.instruction())
	case strings.HasPrefix(name, keys.PartVariable):
		x.add(executor.Cause{Kind: executor.CauseVariable, Name: strings.TrimPrefix(name, keys.PartVariable),
			Old: keys.Values(a), New: keys.Values(b)})
	case strings.HasPrefix(name, keys.PartContent):
		x.content(ctx, strings.TrimPrefix(name, keys.PartContent), a, b)
	default:
		if in, ok := x.wholeNamed(name, b); ok {
			x.input(in, a, b)
			return
		}
		c := executor.Cause{Kind: executor.CauseOption, Name: "the " + name}
		if name != keys.PartTest {
			c.Old, c.New = keys.Texts(a), keys.Texts(b)
		}
		x.add(c)
	}
}

// instruction returns the cause that the step's text differs, or the expansion of its text.
func (x *explanation) instruction() executor.Cause {
	text, _ := x.k.n.step.Instruction()
	c := executor.Cause{Kind: executor.CauseInstruction, Name: executor.Place(x.k.n.step.Source)}
	if text != x.old.Instruction {
		c.Old, c.New = keys.ShortText(x.old.Instruction), keys.ShortText(text)
	}
	return c
}

// wholeNamed returns the whole input whose part has this name.
func (x *explanation) wholeNamed(name string, now []key.Part) (input, bool) {
	for _, w := range x.k.whole {
		if w.name == name && (len(now) == 0 || now[len(now)-1].Value != "") {
			return w.in, true
		}
	}
	return input{}, false
}

// input adds the cause that a whole input differs.
func (x *explanation) input(in input, a, b []key.Part) {
	text, _ := x.k.n.step.Instruction()
	if text != x.old.Instruction {
		x.add(x.instruction()) // adding or removing --link changes the parent
	}
	switch {
	case text != x.old.Instruction && in.scratch():
	case in.image():
		x.add(executor.Cause{Kind: executor.CauseBase, Old: keys.Values(a), New: keys.Values(b)})
	case in.scratch():
		x.add(executor.Cause{Kind: executor.CauseBase, Old: keys.Values(a), New: "scratch"})
	case in.local():
		x.add(executor.Cause{Kind: executor.CauseFiles, Name: in.node.step.Name})
	case x.rebased(in):
		x.add(executor.Cause{Kind: executor.CauseBase, Old: x.old.Base, New: in.base()})
	default:
		x.add(executor.Cause{Kind: executor.CauseInput, Step: in.node.step.Digest})
	}
}

// rebased reports whether a cached input differs only because its base image does. A copy of the same files onto
// another base need not run, so no earlier step reports the new base.
func (x *explanation) rebased(in input) bool {
	return in == x.k.whole[0].in && in.node.result.Status == executor.StatusCached && x.old.Base != "" &&
		in.base() != "" && in.base() != x.old.Base
}

// content adds the cause that the files which the step reads differ, and lists them.
func (x *explanation) content(ctx context.Context, name string, a, b []key.Part) {
	var read readInput
	for _, r := range x.k.reads {
		if r.name == name {
			read = r
		}
	}
	if read.name == "" || len(a) == 0 || len(b) == 0 {
		x.add(x.instruction()) // the instruction names other files now
		return
	}
	if read.in.image() && keys.Values(a) != keys.Values(b) {
		x.add(executor.Cause{Kind: executor.CauseBase, Old: keys.Values(a), New: keys.Values(b)})
		return
	}
	c := executor.Cause{Kind: executor.CauseFiles, Name: read.in.path(read.what)}
	if !read.in.local() && !read.in.scratch() {
		c = executor.Cause{Kind: executor.CauseInput, Name: read.what, Step: read.in.node.step.Digest}
	}
	c.Files, c.More = x.files(ctx, read, a[len(a)-1].Digest, b[len(b)-1].Digest)
	if text, _ := x.k.n.step.Instruction(); text != x.old.Instruction {
		x.add(x.instruction())
		if len(c.Files) == 0 {
			return // the earlier instruction may have read other files
		}
	}
	x.add(c)
}

// files lists the files of a selection that differ, if both lists are known.
func (x *explanation) files(ctx context.Context, r readInput, old, now string) ([]executor.FileChange, int) {
	before, err := x.k.n.b.listed(listName(digest.Digest(old), r.sel))
	if err != nil || before == nil {
		return nil, 0
	}
	after, err := x.k.listing(ctx, r, digest.Digest(now))
	if err != nil || after == nil {
		return nil, 0
	}
	files := keys.ChangedFiles(before, after)
	var out []executor.FileChange
	for _, d := range files[:min(len(files), executor.MaxFileChanges)] {
		out = append(out, executor.FileChange{Path: strings.ToValidUTF8(r.in.path(d.Path()), "?"), How: keys.How(d)})
	}
	return out, len(files) - len(out)
}

// path returns a path in an input as a person knows it: in a build context relative to the project's directory,
// otherwise from the root.
func (in input) path(inside string) string {
	inside = path.Join("/", inside)
	if !in.local() {
		return inside
	}
	return path.Join(strings.TrimPrefix(in.node.step.Op.GetSource().GetIdentifier(), planner.LocalPrefix), inside)
}
