package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/planner"
)

// build is one run of one graph.
type build struct {
	engine *Engine
	store  *cache.Store
	graph  *planner.Graph
	opts   executor.Options
	nodes  []*node
	byStep map[*planner.Step]*node
	events *events
	// ahead packs layers of images in the background; nil in a preview.
	ahead *ahead
	// imports are the remote caches that the run reads.
	imports *imports
	started time.Time
	// dry is set for a preview: no step runs, no image or layer is downloaded, and no entry is stored.
	dry bool
	// nonce makes the ids of this run's layers unique.
	nonce    string
	contexts *keys.Contexts
	pasts    pasts
	// stepNames returns the display names of the graph's steps.
	stepNames func() map[digest.Digest]string
	// texts returns the instructions of the graph by place.
	texts func() map[digest.Digest]map[string]bool
	// userXattr is set in a user namespace, where overlayfs keeps its marks in user.* xattrs.
	userXattr bool
	// transfers holds one token for each layer that is being downloaded.
	transfers chan struct{}
	// flights deduplicates work on shared content: unpacking, indexing, snapshots, transfers.
	flights singleflight.Group

	// layerDirs caches the directories of layers on disk, by id. The store keeps them while this process uses them.
	layerDirs sync.Map
	// identities caches a userResult by userQuery. The result for one chain is valid for chains above it whose layers
	// do not touch the files it was read from.
	identities sync.Map
	// claimed holds the claimedBlob of each blob of an image whose step a remote cache claims, by its digest.
	// claimedLayers returns the caches that claim layers, by the ids of the layers.
	claimed       sync.Map
	claimedLayers func() map[digest.Digest]string
	// packs caches the blobs that were found or created, a cache.Packed by packKey.
	packs sync.Map

	// fresh holds the cache mounts that start empty in this run: those with an id of renewed, which a forced step has.
	fresh   cache.FreshMounts
	renewed map[string]bool
	// mounts caches the mountSource of a cache mount, by filledName of its id and the caches of its seed.
	mounts sync.Map
	// claimOrigins returns the remote caches of which the store has claims.
	claimOrigins func() []string

	// shell is locked while the shell of a failed step is open.
	shell sync.Mutex

	mu sync.Mutex
	// storedKeys holds the keys that this run stored. A forced step may use those entries, but no older ones.
	storedKeys map[digest.Digest]bool
	// durations are the times of the steps that ran, by all names of timeNames.
	durations map[string]time.Duration
}

// newBuild creates a node for every step and parses its op. It reads no files.
func (e *Engine) newBuild(g *planner.Graph, opts executor.Options) (*build, error) {
	b := &build{
		engine: e, store: e.store, graph: g, opts: opts, nonce: rand.Text(), started: time.Now(),
		events: newEvents(opts.Events), storedKeys: map[digest.Digest]bool{}, durations: map[string]time.Duration{},
		byStep:    make(map[*planner.Step]*node, len(g.Steps)),
		userXattr: idmap.InNamespace(), transfers: make(chan struct{}, maxTransfers),
	}
	b.texts = sync.OnceValue(b.textsOf)
	b.claimedLayers = sync.OnceValue(b.layersClaimed)
	b.claimOrigins = sync.OnceValue(e.store.ClaimOrigins)
	b.stepNames = sync.OnceValue(func() map[digest.Digest]string { return stepNamesOf(g) })
	b.contexts = keys.NewContexts(e.store.StatIndexDir())
	times := e.store.Durations()
	for i, s := range g.Steps {
		n := &node{b: b, index: i, step: s}
		n.result = executor.StepResult{Digest: s.Digest, Status: executor.StatusSkipped}
		for _, in := range s.Inputs {
			edge := input{index: in.Index}
			if in.Step != nil {
				if edge.node = b.byStep[in.Step]; edge.node == nil {
					return nil, fmt.Errorf("step %q comes before its input %q in the graph", s.Name, in.Step.Name)
				}
			}
			n.inputs = append(n.inputs, edge)
		}
		op, err := newOperation(n)
		if err != nil {
			return nil, n.wrap(err)
		}
		n.op = op
		n.result.Expected = times.Of(n.timeNames()...)
		b.byStep[s] = n
		b.nodes = append(b.nodes, n)
	}
	b.renewed = b.forcedMounts()
	return b, nil
}

// newOperation returns the operation that executes a step.
func newOperation(n *node) (operation, error) {
	if n.step.Test != nil {
		return newTestStep(n)
	}
	switch n.step.Op.GetOp().(type) {
	case *pb.Op_Source:
		return newSource(n)
	case *pb.Op_Exec:
		return newExecStep(n)
	case *pb.Op_File:
		return newFileStep(n)
	case *pb.Op_Merge:
		return newMerge(n)
	case *pb.Op_Diff:
		return newDiff(n)
	case *pb.Op_Passthrough:
		return newPassthrough(n)
	}
	return nil, fmt.Errorf("operations of type %T cannot be executed", n.step.Op.GetOp())
}

// input returns input k of the op; scratch if k is pb.Empty.
func (n *node) input(k int) input {
	if k < 0 || k >= len(n.inputs) {
		return input{}
	}
	return n.inputs[k]
}

// of returns the input that an edge of the graph leads to.
func (b *build) of(e planner.Edge) input { return input{b.byStep[e.Step], e.Index} }

// forced reports whether the step must run even if the cache has its result.
func (n *node) forced() bool { return n.b.opts.NoCache || n.step.NoCache }

// note records keys that this run stored.
func (b *build) note(keys ...digest.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range keys {
		b.storedKeys[k] = true
	}
}

// storedNow reports whether this run stored an entry under key.
func (b *build) storedNow(key digest.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.storedKeys[key]
}

// Lookup implements schedule.Worker.
func (b *build) Lookup(ctx context.Context, step int) (bool, error) {
	n := b.nodes[step]
	found, err := n.op.lookup(ctx)
	return n.found(ctx, found, err)
}

// Prepare implements schedule.Worker.
func (b *build) Prepare(ctx context.Context, step int) (bool, func(), error) {
	n := b.nodes[step]
	found, release, err := n.op.prepare(ctx)
	found, err = n.found(ctx, found, err)
	return found, release, err
}

// found records that a step was served from the cache, or that the lookup failed.
func (n *node) found(ctx context.Context, found bool, err error) (bool, error) {
	if err != nil {
		return false, n.ended(ctx, err)
	}
	if found {
		if err := n.checkOwners(); err != nil {
			return false, n.ended(ctx, err)
		}
		n.b.ahead.done(n)
	}
	if found && n.result.Status == executor.StatusSkipped {
		n.result.Status = executor.StatusCached
		if !n.reportedCached {
			n.b.events.send(executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindCached})
		}
	}
	return found, nil
}

// Run implements schedule.Worker.
func (b *build) Run(ctx context.Context, step int) error {
	if err := b.gate(ctx); err != nil {
		return err
	}
	n := b.nodes[step]
	if k := n.keys(); k != nil {
		n.because(k.explain(ctx, k.final, nil)...)
	}
	n.result.Started = time.Now()
	b.events.send(executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindStart})
	err := n.op.run(ctx)
	n.result.Completed = time.Now()
	if k := n.keys(); k != nil && err == nil {
		err = k.remember(ctx, k.final)
	}
	if err != nil {
		err = n.ended(ctx, err)
	} else {
		n.result.Status = executor.StatusRan
		b.ahead.done(n)
	}
	done := executor.Event{Step: n.step.Digest, Name: n.step.Name, Kind: executor.KindDone, Err: err}
	if lost := new(lostError); errors.As(err, &lost) {
		done.Err = nil // not a failure: the graph runs again without the lost layer
	}
	b.events.send(done)
	return err
}

// close closes the build contexts and stores what was learned about their files and about the times of steps.
func (b *build) close() {
	b.contexts.Save()
	b.saveTimes()
	b.savePasts()
	b.fresh.Close()
	for _, n := range b.nodes {
		if n.local != nil {
			n.local.Close()
		}
	}
}

// tasks links the nodes for the scheduler.
func (b *build) tasks() []schedule.Task {
	inputs := make([][]int, len(b.nodes))
	for i, n := range b.nodes {
		for _, in := range n.inputs {
			if in.node != nil {
				inputs[i] = append(inputs[i], in.node.index)
			}
		}
	}
	weight := func(i int) time.Duration { return b.nodes[i].weight() }
	need := func(i int) schedule.Need {
		need := schedule.NeedOf(b.nodes[i].step.Resources)
		// Each cache mount is two locks.
		need.Files = filesOfStep + 2*len(b.nodes[i].step.Op.GetExec().GetMounts())
		return need
	}
	return schedule.NewTasks(inputs, weight, need)
}

// Open files. A step that is ready to run keeps the lock of its key and those of its cache mounts; one that runs also
// has pipes, a log, its network and the layers that it reads. What the rest of a build opens is bounded by the number
// of processors and transfers.
const (
	filesOfStep  = 8  // without mounts
	filesOfBuild = 96 // outside of steps
)

// results returns the results of all steps, in graph order.
func (b *build) results(errs []error) []executor.StepResult {
	out := make([]executor.StepResult, len(b.nodes))
	for i, n := range b.nodes {
		out[i] = n.result
		if errs != nil && errs[i] != nil && !skippedStep(errs[i]) {
			out[i].Status, out[i].Err = executor.StatusFailed, errs[i]
		}
		if n.before != nil && out[i].Status == executor.StatusCached {
			out[i] = *n.before
		}
	}
	return out
}

// execute runs the steps and writes the outputs.
func (b *build) execute(ctx context.Context) (*executor.Report, error) {
	report, opts := &executor.Report{Started: b.started}, b.opts
	defer func() { report.Completed = time.Now() }()
	if err := b.allowed(); err != nil {
		return report, err
	}
	packings, err := b.packings()
	if err != nil {
		return report, err
	}
	defer b.close()
	b.ahead = b.packAhead(ctx, packings)
	defer b.ahead.stop()
	exports := b.cacheExports()
	b.ahead.addExports(exports)
	jobs := opts.Jobs
	if jobs == 0 {
		jobs = runtime.NumCPU()
	}
	memory := b.engine.opts.Memory
	if memory == 0 {
		memory = schedule.AvailableMemory()
	}
	s := &schedule.Scheduler{
		Worker: b, Lookups: schedule.NewLimiter(max(2*runtime.NumCPU(), 4), 0), Runs: schedule.NewLimiter(jobs, memory),
		Files:     schedule.NewLimiter(schedule.OpenFiles()-filesOfBuild, 0),
		KeepGoing: opts.KeepGoing,
	}
	errs, failures := s.Run(ctx, b.tasks())
	b.markSame(ctx)
	report.Steps = b.results(errs)
	if len(failures) > 0 && !(opts.KeepGoing && ctx.Err() == nil) {
		return report, failures[0]
	}
	report.Images, err = b.export(ctx, b.finished(errs))
	b.markClaimed(report.Images)
	report.Steps = b.results(errs)
	if err != nil {
		failures = append(failures, err)
	}
	if len(failures) == 0 {
		b.saveUses()
		b.exportCaches(ctx, exports)
	}
	return report, executor.Failed(failures)
}

// finished returns the images of the targets whose steps are all done.
func (b *build) finished(errs []error) []*planner.Image {
	done := make(map[*planner.Step]bool, len(errs))
	for i, n := range b.nodes {
		done[n.step] = errs[i] == nil
	}
	failed := map[string]bool{}
	for _, image := range b.graph.Images {
		needs := slices.Clone(image.Tests)
		if image.SBOM != nil {
			needs = append(needs, image.SBOM.Step)
		}
		missing := slices.ContainsFunc(needs, func(s *planner.Step) bool { return !done[s] })
		if missing || image.Root.Step != nil && !done[image.Root.Step] {
			failed[image.Target] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(b.graph.Images), func(m *planner.Image) bool { return failed[m.Target] })
}

// allowed rejects, before anything runs, steps that need an entitlement which was not granted.
func (b *build) allowed() error {
	for _, n := range b.nodes {
		exec := n.step.Op.GetExec()
		if exec == nil {
			continue
		}
		if err := executor.Denied(n.step, b.opts.Allow); err != nil {
			return n.wrap(err)
		}
		for _, d := range exec.GetCdiDevices() {
			if !d.GetOptional() {
				return n.wrap(&UnsupportedError{
					What: "RUN --device (" + d.GetName() + ")", Instead: "remove the device, or mark it required=false",
				})
			}
		}
	}
	return nil
}
