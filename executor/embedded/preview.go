package embedded

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/planner"
)

// errOffline is returned in a preview where a build would use the network.
var errOffline = errors.New("not on this machine")

// Preview returns what Run would do with each step, in graph order. It runs nothing, downloads no image or layer and
// stores no entry. It reads local build contexts, the local cache and the indexes of remote caches. It may update the
// stat index, and stores a snapshot of a build context that is an input of a merge or diff.
//
// The promise: a step that Preview reports as cached does not run, if nothing changes in between. The reverse may
// happen: a step reported as "will run" or "may run" may turn out to be cached. The reason is that some ids exist
// only after a command has run: the id of its entry is random. So a node is unknown if its id cannot be known, and
// willBeNew if it certainly gets a new one. A step on an unknown input is never reported as cached: it will run if that
// input will be new, and may run otherwise. A step whose files are not on this machine may run. Without this
// distinction scripts that act on the preview would skip work that is needed.
func (e *Engine) Preview(ctx context.Context, g *planner.Graph, opts executor.Options) ([]executor.StepResult, error) {
	opts.Events = nil
	b, err := e.newBuild(g, opts)
	if err != nil {
		return nil, err
	}
	b.dry = true
	b.imports = e.newImports(ctx, g, opts)
	defer b.imports.close()
	defer b.close()
	for _, n := range b.nodes {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		err := n.foresee(ctx)
		if err == nil && n.result.Status == executor.StatusCached {
			err = n.checkOwners()
		}
		if err != nil {
			n.result.Status, n.result.Err, n.result.Reason = executor.StatusWillRun, n.failed(err), willFail(err)
			n.unknown = true
		}
	}
	b.markSame(ctx)
	return b.results(nil), nil
}

// willFail returns the reason of a step that certainly fails: the first line of its error, without the step's place.
func willFail(err error) string {
	if step, ok := errors.AsType[*executor.StepError](err); ok && step.Err != nil {
		err = step.Err
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return "will fail: " + line
}

// foresee sets the node's status and reason, and unknown if its id cannot be known.
func (n *node) foresee(ctx context.Context) error {
	switch op := n.op.(type) {
	case *execStep:
		return op.foresee(ctx, nil)
	case *testStep:
		return op.foresee(ctx, nil)
	case *fileStep:
		return op.foresee(ctx, op.foreseeShared)
	case *virtual:
		return op.foresee(ctx)
	case *linkMerge:
		return op.foresee(ctx)
	}
	found, err := n.op.lookup(ctx)
	if err == nil && !found {
		n.unknown = true
		n.result.Status = executor.StatusMayRun
		n.because(executor.Cause{Kind: executor.CauseAsked})
	} else if err == nil && n.result.Status == executor.StatusSkipped {
		n.result.Status = executor.StatusCached
	}
	return err
}

// will sets a status other than cached.
func (n *node) will(status executor.StepStatus, reason string) {
	n.result.Status, n.result.Reason = status, reason
}

// uncertain returns the first of the inputs whose id is not known.
func uncertain(inputs []input) *node {
	for _, in := range inputs {
		if !in.scratch() && in.node.unknown {
			return in.node
		}
	}
	return nil
}

// foresee sets the status of a virtual step.
func (v *virtual) foresee(ctx context.Context) error {
	if u := uncertain(v.n.inputs); u != nil {
		v.n.unknown, v.n.result.Status = true, u.result.Status
		v.n.because(executor.Cause{Kind: executor.CauseInput, Step: u.step.Digest})
		return nil
	}
	_, err := v.lookup(ctx)
	if err == nil {
		v.n.result.Status = executor.StatusCached
	}
	for _, in := range v.n.inputs {
		if !in.scratch() && in.node.result.Status == executor.StatusWillRun {
			v.n.result.Status = executor.StatusWillRun
			v.n.because(executor.Cause{Kind: executor.CauseInput, Step: in.node.step.Digest})
		}
	}
	return err
}

// foresee sets the status of a merge. Unless it is stored, it compares directories of the stage.
func (m *linkMerge) foresee(ctx context.Context) error {
	n := m.n
	if uncertain(n.inputs) != nil {
		return m.virtual.foresee(ctx)
	}
	found, err := m.lookup(ctx)
	switch {
	case err != nil && !offline(err):
		return err
	case found:
		n.result.Status = executor.StatusCached
		return nil
	}
	n.will(executor.StatusWillRun, "directories of the destination are compared with those of the stage")
	n.id = n.result.Key
	n.portable, err = m.key(ctx, input.portableID)
	return err
}

// foresee sets the status of a keyed step. shared, if not nil, looks for a candidate from another parent.
func (k *keyed) foresee(ctx context.Context, shared func(context.Context) (bool, error)) error {
	n := k.n
	n.by = n.inputTaint()
	if n.forced() {
		n.unknown, n.willBeNew, n.result.Status = true, shared == nil, executor.StatusWillRun
		n.because(executor.Cause{Kind: executor.CauseForced})
		return nil
	}
	if decided, err := k.foreseeInputs(ctx, shared != nil); decided || err != nil {
		return err
	}
	found, err := k.lookup(ctx)
	if err == nil && !found {
		found, err = k.finalize(ctx)
	}
	if err == nil && !found && shared != nil {
		found, err = shared(ctx)
	}
	switch {
	case offline(err):
		n.unknown = true
		n.will(executor.StatusMayRun, "the files that it reads are not on this machine yet")
		return nil
	case err != nil:
		return err
	case found:
		n.result.Status = executor.StatusCached
		return nil
	}
	n.result.Status = executor.StatusWillRun
	n.because(k.explain(ctx, k.final, nil)...)
	// A file operation's id is its key; a command gets its id when it has run.
	n.id, n.portable = k.finalKey, k.finalPortable
	n.unknown, n.willBeNew = shared == nil, shared == nil
	return nil
}

// foreseeInputs decides if the id of an input is not known.
func (k *keyed) foreseeInputs(ctx context.Context, file bool) (decided bool, err error) {
	n := k.n
	var whole, read []input
	for _, w := range k.whole {
		whole = append(whole, w.in)
	}
	for _, r := range k.reads {
		read = append(read, r.in)
	}
	w, r := uncertain(whole), uncertain(read)
	if w == nil && r == nil {
		return false, nil
	}
	n.unknown = true
	n.willBeNew = w != nil && w.willBeNew
	now, open, err := k.soFar(ctx)
	if err != nil {
		return false, err
	}
	n.because(k.explain(ctx, now, open)...)
	switch {
	case w != nil && !file && w.willBeNew:
		// A command that runs gets a new id, and so do all steps that depend on it.
		n.result.Status = executor.StatusWillRun
	case w != nil && !file:
		n.result.Status = w.result.Status
	case r != nil:
		n.result.Status = executor.StatusMayRun
	default:
		return true, k.foreseeGroup(ctx, w)
	}
	return true, nil
}

// soFar returns the known keys.Parts of the final key, and the inputs behind the unknown ones.
func (k *keyed) soFar(ctx context.Context) (now keys.Parts, open []input, err error) {
	known := *k
	known.whole, known.reads = nil, nil
	for _, w := range k.whole {
		if uncertain([]input{w.in}) == nil {
			known.whole = append(known.whole, w)
		} else {
			open = append(open, w.in)
		}
	}
	for _, r := range k.reads {
		if uncertain([]input{r.in}) == nil {
			known.reads = append(known.reads, r)
		} else if !slices.Contains(open, r.in) {
			open = append(open, r.in)
		}
	}
	if now, err = known.withWhole(ctx, k.own, input.id); err != nil {
		return nil, nil, err
	}
	all, err := known.withContent(ctx, now)
	if offline(err) {
		all, err = now, nil
	}
	return k.withOrigins(all), open, err
}

// foreseeGroup decides for a file operation on a parent that will run: a candidate from another parent may match.
func (k *keyed) foreseeGroup(ctx context.Context, parent *node) error {
	group, err := k.withContent(ctx, k.own)
	if offline(err) {
		k.n.will(executor.StatusMayRun, "the files that it reads are not on this machine yet")
		return nil
	}
	if err != nil {
		return err
	}
	own, err := k.n.b.store.Candidates(group.Key())
	if err != nil {
		return err
	}
	claimed, err := k.n.b.store.Candidates(k.withOrigins(group).Key())
	if err != nil {
		return err
	}
	others, err := k.n.b.imports.candidates(group.Key(), k.n.likeFile)
	if err != nil {
		return err
	}
	if len(own)+len(claimed)+len(others) == 0 && parent.result.Status == executor.StatusWillRun {
		k.n.result.Status = executor.StatusWillRun
		return nil
	}
	k.n.result.Status = executor.StatusMayRun
	return nil
}

// foreseeShared looks for a candidate from another parent.
func (f *fileStep) foreseeShared(ctx context.Context) (bool, error) {
	group, err := f.withContent(ctx, f.own)
	if err != nil {
		return false, err
	}
	return f.share(ctx, group)
}
