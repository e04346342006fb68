package buildkitd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/imagetest"
	"github.com/bakebuild/bake/planner"
)

// PassedTests remembers the tests that have passed: a daemon caches the steps of an image, not what was found out about it.
type PassedTests interface {
	Passed(key digest.Digest) (bool, error)
	// Pass notes that a test of that name has passed and how long that took.
	Pass(key digest.Digest, step *planner.Step, took time.Duration) error
}

// readPiece is how much of a file is asked for at once, in bytes.
const readPiece = 4 << 20

// pending is a test that must run.
type pending struct {
	step  *planner.Step
	image *planner.Image
	key   digest.Digest // "" is not remembered
}

// test runs the tests of the images that were built, in one more build of the daemon, which has all of it.
func (b *batch) test(ctx context.Context) error {
	todo, err := b.untested()
	if err != nil || len(todo) == 0 {
		return err
	}
	var fault error
	_, err = b.builder.build(ctx, b.run.status, b.builder.options(b.run), func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		fault = b.runTests(ctx, c, todo)
		return gateway.NewResult(), fault
	})
	if fault != nil {
		return fault
	}
	return err
}

// untested are the tests that are not known to have passed on just these images.
func (b *batch) untested() ([]pending, error) {
	var todo []pending
	seen := map[*planner.Step]bool{}
	for _, image := range b.images {
		for _, s := range image.Tests {
			if b.failures[image] != nil || seen[s] {
				continue
			}
			seen[s] = true
			p := pending{step: s, image: image, key: testKey(s, b.results[image])}
			if p.key == "" || s.NoCache || b.run.opts.NoCache || b.run.engine.opts.Tests == nil {
				todo = append(todo, p)
				continue
			}
			passed, err := b.run.engine.opts.Tests.Passed(p.key)
			if err != nil {
				return nil, err
			}
			if passed {
				b.run.status.tested(s, executor.StepResult{Key: p.key, Status: executor.StatusCached})
				continue
			}
			todo = append(todo, p)
		}
	}
	return todo, nil
}

// testKey says what a test has passed on: the layers that came of the image. An image of which none were asked for cannot be
// told from another one.
func testKey(s *planner.Step, m *made) digest.Digest {
	if s.Test.Config != nil {
		return s.Digest
	}
	var shapes []string
	for shape, layers := range m.layers {
		text := fmt.Sprint(shape)
		for _, l := range layers {
			text += " " + string(l.DiffID)
		}
		shapes = append(shapes, text)
	}
	if len(shapes) == 0 {
		return ""
	}
	least := shapes[0]
	for _, other := range shapes[1:] {
		least = min(least, other)
	}
	return digest.FromString("test " + string(s.Digest) + " on " + least)
}

// runTests runs tests side by side. The first that fails ends them, unless the run keeps going.
func (b *batch) runTests(ctx context.Context, c gateway.Client, todo []pending) error {
	g, gctx := errgroup.WithContext(ctx)
	jobs := b.run.opts.Jobs
	if jobs == 0 {
		jobs = runtime.NumCPU()
	}
	g.SetLimit(jobs)
	for _, p := range todo {
		g.Go(func() error {
			if gctx.Err() != nil {
				return gctx.Err()
			}
			return b.runTest(gctx, c, p)
		})
	}
	return g.Wait()
}

func (b *batch) runTest(ctx context.Context, c gateway.Client, p pending) error {
	result := executor.StepResult{Key: p.key, Status: executor.StatusRan, Reason: "nothing says that it has passed", Started: time.Now()}
	b.run.status.send(executor.Event{Step: p.step.Digest, Name: p.step.Name, Kind: executor.KindStart})
	err := b.judge(ctx, c, p)
	if err != nil && ctx.Err() != nil {
		return err // another one failed before
	}
	result.Completed = time.Now()
	if failed, ok := errors.AsType[*imagetest.Error](err); ok {
		step := executor.TestFailed(p.step, failed)
		step.Last = b.run.status.lines(p.step.Digest)
		err = step
	}
	if result.Err = err; err != nil {
		result.Status = executor.StatusFailed
	}
	b.run.status.tested(p.step, result)
	var step *executor.StepError
	switch {
	case errors.As(err, &step):
		b.mu.Lock()
		defer b.mu.Unlock()
		b.noteAll(p.step, err)
		if b.run.opts.KeepGoing {
			return nil
		}
		return errStopped
	case err != nil:
		return err
	case p.key == "" || b.run.engine.opts.Tests == nil:
		return nil
	}
	return b.run.engine.opts.Tests.Pass(p.key, p.step, result.Completed.Sub(result.Started))
}

// noteAll notes a failure for every image with the test.
func (b *batch) noteAll(s *planner.Step, err error) {
	for _, image := range b.images {
		for _, t := range image.Tests {
			if t == s {
				b.note(image, err)
			}
		}
	}
}

func (b *batch) judge(ctx context.Context, c gateway.Client, p pending) error {
	if p.step.Test.Config != nil {
		return imagetest.CheckConfig(p.step.Test)
	}
	if len(p.step.Test.Command) == 0 {
		ref, err := b.solveFor(ctx, c, b.builder.defs.of(p.image.Root))
		if err != nil {
			return err
		}
		return imagetest.CheckFile(p.step.Test, testFiles{ctx, ref})
	}
	if p.image.Root.Step == nil {
		return &imagetest.Error{Differences: []string{"the image is empty: there is no command to run"}}
	}
	def, err := b.builder.defs.withSetup(p.image.Root, p.step)
	if err != nil {
		return err
	}
	ref, err := b.solveFor(ctx, c, def)
	if code := exitCode(err); code >= 0 {
		return &imagetest.Error{Differences: []string{fmt.Sprintf("setup: exit code %d", code)}}
	}
	if err != nil {
		return err
	}
	return b.command(ctx, c, p, ref)
}

func (b *batch) solveFor(ctx context.Context, c gateway.Client, def *pb.Definition) (gateway.Reference, error) {
	if def == nil {
		return nil, nil
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{Definition: def, Evaluate: true})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}

// command runs a test's command in a container of the daemon, on a copy of the image's files.
func (b *batch) command(ctx context.Context, c gateway.Client, p pending, ref gateway.Reference) error {
	exec := p.step.Op.GetExec()
	meta := exec.GetMeta()
	box, err := c.NewContainer(ctx, gateway.NewContainerRequest{
		Mounts:  []gateway.Mount{{Dest: pb.RootMount, Ref: ref, MountType: pb.MountType_BIND}},
		NetMode: exec.GetNetwork(), Platform: p.step.Op.GetPlatform(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = box.Release(context.WithoutCancel(ctx)) }() // it says again how the command ended
	out, errs := b.capture(p.step, 1), b.capture(p.step, 2)
	process, err := box.Start(ctx, gateway.StartRequest{
		Args: meta.GetArgs(), Env: meta.GetEnv(), User: meta.GetUser(), Cwd: meta.GetCwd(), Stdout: out, Stderr: errs,
	})
	if err != nil {
		return err
	}
	result := imagetest.CommandResult{}
	if err := process.Wait(); err != nil {
		if result.ExitCode = exitCode(err); result.ExitCode < 0 {
			return err
		}
	}
	if out.over || errs.over {
		return &imagetest.Error{Differences: []string{fmt.Sprintf("the command writes more than %d bytes", imagetest.MaxOutput)}}
	}
	result.Stdout, result.Stderr = out.Bytes(), errs.Bytes()
	return imagetest.CheckCommand(p.step.Test, result)
}

// capture keeps an output of bounded size, and shows it as the test's.
type capture struct {
	bytes.Buffer
	over bool
	show func([]byte)
}

// noSecrets is what a test is given of them.
func noSecrets() [][]byte { return nil }

func (b *batch) capture(s *planner.Step, stream int) *capture {
	return &capture{show: func(p []byte) { b.run.status.output(s.Digest, s.Name, stream, p, noSecrets) }}
}

// Write implements io.Writer.
func (c *capture) Write(p []byte) (int, error) {
	n := len(p)
	if room := imagetest.MaxOutput - c.Len(); len(p) > room {
		c.over, p = true, p[:room]
	}
	if len(p) > 0 {
		c.show(p)
	}
	c.Buffer.Write(p)
	return n, nil
}

// Close implements io.WriteCloser.
func (*capture) Close() error { return nil }

// withSetup is the definition of an image on which the setup of a test has run.
func (d *definitions) withSetup(root planner.Edge, s *planner.Step) (*pb.Definition, error) {
	def := d.of(root)
	if len(s.Test.Setup) == 0 {
		return def, nil
	}
	def.Def = def.Def[:len(def.Def)-1] // the terminal
	at := &pb.Input{Digest: string(d.ops[root.Step].digest), Index: int64(root.Index)}
	for _, command := range s.Test.Setup {
		op, ok := proto.Clone(s.Op).(*pb.Op)
		if !ok {
			return nil, fmt.Errorf("unknown kind of operation %T", s.Op)
		}
		op.Inputs = []*pb.Input{at}
		op.GetExec().Meta.Args = command
		op.GetExec().Mounts = []*pb.Mount{{Input: 0, Dest: pb.RootMount, Output: 0}}
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
		if err != nil {
			return nil, err
		}
		def.Def = append(def.Def, raw)
		def.Metadata[string(digest.FromBytes(raw))] = &pb.OpMetadata{
			Description: map[string]string{"llb.customname": s.Name + ": setup: " + strings.Join(command, " ")}, LinuxResources: s.Resources,
		}
		at = &pb.Input{Digest: string(digest.FromBytes(raw))}
	}
	raw, err := (&pb.Op{Inputs: []*pb.Input{at}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	def.Def = append(def.Def, raw)
	return def, nil
}

// testFiles are the files of an image that a daemon has.
type testFiles struct {
	ctx context.Context // of the test, which ends before whoever holds this
	ref gateway.Reference
}

// Stat implements imagetest.Files.
func (f testFiles) Stat(path string) (imagetest.File, error) {
	if f.ref == nil {
		return imagetest.File{}, fs.ErrNotExist
	}
	st, err := f.ref.StatFile(f.ctx, gateway.StatRequest{Path: path})
	if err != nil {
		return imagetest.File{}, missing(err)
	}
	return imagetest.File{Mode: unixMode(fs.FileMode(st.Mode)), UID: st.Uid, GID: st.Gid}, nil
}

// missing makes a daemon's word for what is not there ours.
func missing(err error) error {
	if strings.Contains(err.Error(), unix.ENOENT.Error()) || strings.Contains(err.Error(), unix.ENOTDIR.Error()) {
		return &fs.PathError{Op: "stat", Path: "it", Err: os.ErrNotExist}
	}
	return plain(err)
}

// unixMode is a mode of Go as the kernel has it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{
		fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX, fs.ModeDir: unix.S_IFDIR,
	} {
		if m&flag != 0 {
			mode |= bit
		}
	}
	if m.IsRegular() {
		mode |= unix.S_IFREG
	}
	return mode
}

// Open implements imagetest.Files.
func (f testFiles) Open(path string) (io.ReadCloser, error) {
	if _, err := f.Stat(path); err != nil {
		return nil, err
	}
	return io.NopCloser(&pieces{f: f, path: path}), nil
}

// pieces reads a file piece by piece.
type pieces struct {
	f    testFiles
	path string
	at   int
	rest []byte
	end  bool
}

// Read implements io.Reader.
func (p *pieces) Read(to []byte) (int, error) {
	if len(p.rest) == 0 && !p.end {
		raw, err := p.f.ref.ReadFile(p.f.ctx, gateway.ReadRequest{Filename: p.path, Range: &gateway.FileRange{Offset: p.at, Length: readPiece}})
		if err != nil {
			return 0, plain(err)
		}
		p.at, p.rest, p.end = p.at+len(raw), raw, len(raw) < readPiece
	}
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(to, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
