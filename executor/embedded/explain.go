package embedded

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/tree"
)

// How the parts of keys are named that an explanation tells apart.
const (
	partCommand  = "command"
	partAction   = "action " // with its number and what it does
	partVariable = "env "
	partContent  = "content of "
	partTest     = "test"
)

// secretNameParts are parts of the names of variables whose values are not shown.
var secretNameParts = []string{"apikey", "auth", "credential", "credentials", "key", "passwd", "password", "pword", "secret", "token"}

// shownValue returns a variable's value for display, or "" if its name suggests a secret.
func shownValue(name, value string) string {
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '_' || r == '-' })
	if slices.ContainsFunc(parts, func(w string) bool { return slices.Contains(secretNameParts, w) }) {
		return ""
	}
	return value
}

// explanation compares the parts of a step's key with those of its nearest earlier run.
type explanation struct {
	k   *keyed
	now parts
	// open are the inputs whose part of the key is unknown until they have run; only a preview has some.
	open   []input
	old    cache.PastRun
	causes []executor.Cause
}

// explain returns why the step runs, or would run. now are the known parts of its key.
func (k *keyed) explain(ctx context.Context, now parts, open []input) []executor.Cause {
	if k.n.forced() {
		return []executor.Cause{{Kind: executor.CauseForced}}
	}
	x := &explanation{k: k, now: now, open: open}
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
		executor.CauseBase, executor.CauseInstruction, executor.CauseVariable, executor.CauseOption, executor.CauseFiles,
		executor.CausePruned, executor.CauseInput,
	}
	slices.SortStableFunc(x.causes, func(a, b executor.Cause) int {
		return cmp.Compare(slices.Index(rank, a.Kind), slices.Index(rank, b.Kind))
	})
	return x.causes
}

// compare adds a cause for each part that differs.
func (x *explanation) compare(ctx context.Context) {
	old, now := byName(x.old.Inputs), byName(x.now)
	open := map[string]bool{}
	for _, in := range x.openNames() {
		open[in] = true
	}
	for _, name := range names(x.old.Inputs, x.now) {
		a, b := old[name], now[name]
		if slices.EqualFunc(a, b, func(p, q cache.Input) bool { return p.Digest == q.Digest }) || len(b) == 0 && open[name] {
			continue
		}
		x.part(ctx, name, a, b)
	}
}

// openNames returns the names of the unknown parts.
func (x *explanation) openNames() []string {
	var list []string
	for _, w := range x.k.whole {
		if slices.Contains(x.open, w.in) {
			list = append(list, w.name)
		}
	}
	for _, r := range x.k.reads {
		if slices.Contains(x.open, r.in) {
			list = append(list, partContent+r.name)
		}
	}
	return list
}

// part adds the cause for one part that differs.
func (x *explanation) part(ctx context.Context, name string, a, b []cache.Input) {
	switch {
	case name == partCommand, strings.HasPrefix(name, partAction):
		x.add(x.instruction())
	case strings.HasPrefix(name, partVariable):
		x.add(executor.Cause{Kind: executor.CauseVariable, Name: strings.TrimPrefix(name, partVariable), Old: values(a), New: values(b)})
	case strings.HasPrefix(name, partContent):
		x.content(ctx, strings.TrimPrefix(name, partContent), a, b)
	default:
		if in, ok := x.wholeNamed(name, b); ok {
			x.input(in, a, b)
			return
		}
		c := executor.Cause{Kind: executor.CauseOption, Name: "the " + name}
		if name != partTest {
			c.Old, c.New = texts(a), texts(b)
		}
		x.add(c)
	}
}

// instruction returns the cause that the step's text differs, or the expansion of its text.
func (x *explanation) instruction() executor.Cause {
	text, _ := x.k.n.step.Instruction()
	c := executor.Cause{Kind: executor.CauseInstruction, Name: executor.Place(x.k.n.step.Source)}
	if text != x.old.Instruction {
		c.Old, c.New = shortText(x.old.Instruction), shortText(text)
	}
	return c
}

// wholeNamed returns the whole input whose part has this name.
func (x *explanation) wholeNamed(name string, now []cache.Input) (input, bool) {
	for _, w := range x.k.whole {
		if w.name == name && (len(now) == 0 || now[len(now)-1].Value != "") {
			return w.in, true
		}
	}
	return input{}, false
}

// input adds the cause that a whole input differs.
func (x *explanation) input(in input, a, b []cache.Input) {
	text, _ := x.k.n.step.Instruction()
	if text != x.old.Instruction {
		x.add(x.instruction()) // adding or removing --link changes the parent
	}
	switch {
	case text != x.old.Instruction && in.scratch():
	case in.image():
		x.add(executor.Cause{Kind: executor.CauseBase, Old: values(a), New: values(b)})
	case in.scratch():
		x.add(executor.Cause{Kind: executor.CauseBase, Old: values(a), New: "scratch"})
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
	return in == x.k.whole[0].in && in.node.result.Status == executor.StatusCached && x.old.Base != "" && in.base() != "" && in.base() != x.old.Base
}

// content adds the cause that the files which the step reads differ, and lists them.
func (x *explanation) content(ctx context.Context, name string, a, b []cache.Input) {
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
	if read.in.image() && values(a) != values(b) {
		x.add(executor.Cause{Kind: executor.CauseBase, Old: values(a), New: values(b)})
		return
	}
	c := executor.Cause{Kind: executor.CauseFiles, Name: read.in.path(name)}
	if !read.in.local() && !read.in.scratch() {
		c = executor.Cause{Kind: executor.CauseInput, Name: name, Step: read.in.node.step.Digest}
	}
	c.Files, c.More = x.files(ctx, read, a[len(a)-1].Digest, b[len(b)-1].Digest)
	x.add(c)
}

// files lists the files of a selection that differ, if both lists are known.
func (x *explanation) files(ctx context.Context, r readInput, old, now string) ([]executor.FileChange, int) {
	before, err := x.k.n.b.listed(digest.Digest(old))
	if err != nil || before == nil {
		return nil, 0
	}
	after, err := x.k.listing(ctx, r, digest.Digest(now))
	if err != nil || after == nil {
		return nil, 0
	}
	all := tree.Differences(before, after)
	files := slices.DeleteFunc(slices.Clone(all), func(d tree.Difference) bool { return isDir(d.Old) || isDir(d.New) })
	if len(files) == 0 {
		files = all
	}
	var out []executor.FileChange
	for _, d := range files[:min(len(files), executor.MaxFileChanges)] {
		out = append(out, executor.FileChange{Path: strings.ToValidUTF8(r.in.path(d.Path()), "?"), How: how(d)})
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
	return path.Join(strings.TrimPrefix(in.node.step.Op.GetSource().GetIdentifier(), localPrefix), inside)
}

func isDir(f *tree.ListedFile) bool { return f != nil && f.Mode&0o170000 == 0o040000 }

// how describes the change of a file.
func how(d tree.Difference) string {
	switch {
	case d.Old == nil:
		return "added"
	case d.New == nil:
		return "removed"
	case d.Old.Sum == d.New.Sum && d.Old.Mode&0o170000 == d.New.Mode&0o170000:
		return fmt.Sprintf("mode %04o → %04o", d.Old.Mode&0o7777, d.New.Mode&0o7777)
	}
	return "changed"
}

// byName groups the parts by name, in order.
func byName(list []cache.Input) map[string][]cache.Input {
	all := map[string][]cache.Input{}
	for _, p := range list {
		all[p.Name] = append(all[p.Name], p)
	}
	return all
}

// names returns the names of the parts of both lists, each once: those of now in order, then the rest.
func names(old, now []cache.Input) []string {
	var list []string
	for _, p := range slices.Concat(now, old) {
		if !slices.Contains(list, p.Name) {
			list = append(list, p.Name)
		}
	}
	return list
}

// values returns the display values of parts, "" if one has none.
func values(list []cache.Input) string {
	var all []string
	for _, p := range list {
		if p.Value == "" {
			return ""
		}
		all = append(all, p.Value)
	}
	return strings.Join(all, ", ")
}

// texts returns the values or digests of parts, shortened.
func texts(list []cache.Input) string {
	var all []string
	for _, p := range list {
		all = append(all, cmp.Or(p.Value, p.Digest))
	}
	return shortText(strings.Join(all, ", "))
}
