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

// PassedTests remembers passed tests: a daemon caches the steps of an image, but not the results of tests.
type PassedTests interface {
	// Passed reports whether a test has passed.
	Passed(key digest.Digest) (bool, error)
	// Pass notes that a test has passed and how long it took.
	Pass(key digest.Digest, step *planner.Step, took time.Duration) error
}

// readPiece is how much of a file one request reads, in bytes.
const readPiece = 4 << 20

// pending is a test that must run.
type pending struct {
	step  *planner.Step
	image *planner.Image
	key   digest.Digest // "" if the result cannot be remembered
}

// test runs the tests of the built images in one more build of the daemon, which has all their files.
func (b *batch) test(ctx context.Context) error {
	todo, err := b.untested()
	if err != nil || len(todo) == 0 {
		return err
	}
	var fault error
	run := func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		fault = b.runTests(ctx, c, todo)
		return gateway.NewResult(), fault
	}
	_, err = b.builder.build(ctx, b.run.status, b.builder.options(b.run), run)
	if fault != nil {
		return fault
	}
	return err
}

// untested returns the tests that are not known to have passed on these images.
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
				b.run.status.tested(b.builder.defs, s, executor.StepResult{Key: p.key, Status: executor.StatusCached})
				continue
			}
			todo = append(todo, p)
		}
	}
	return todo, nil
}

// testKey identifies a test and the layers it ran on. A test of a config needs no layers: its step covers the config.
// The key of other tests is "" for an image without exported layers, since such images cannot be distinguished.
func testKey(s *planner.Step, m *builtImage) digest.Digest {
	if s.Test.Config != nil {
		return s.Digest
	}
	var encodings []string
	for enc, layers := range m.layers {
		text := fmt.Sprint(enc)
		for _, l := range layers {
			text += " " + string(l.DiffID)
		}
		encodings = append(encodings, text)
	}
	if len(encodings) == 0 {
		return ""
	}
	least := encodings[0]
	for _, other := range encodings[1:] {
		least = min(least, other)
	}
	return digest.FromString("test " + string(s.Digest) + " on " + least)
}

// runTests runs tests in parallel, at most Jobs at a time. The first that fails ends them, unless the run keeps going.
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
	result := executor.StepResult{
		Key: p.key, Status: executor.StatusRan, Reason: "no earlier pass is recorded", Started: time.Now(),
	}
	b.run.status.send(executor.Event{Step: p.step.Digest, Name: p.step.Name, Kind: executor.KindStart})
	err := b.check(ctx, c, p)
	if err != nil && ctx.Err() != nil {
		return err // cancelled, because another test failed
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
	b.run.status.tested(b.builder.defs, p.step, result)
	var step *executor.StepError
	switch {
	case errors.As(err, &step):
		b.mu.Lock()
		defer b.mu.Unlock()
		b.addFailures(p.step, err)
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

// addFailures adds a failure to every image with the test. The caller holds b.mu.
func (b *batch) addFailures(s *planner.Step, err error) {
	for _, image := range b.images {
		for _, t := range image.Tests {
			if t == s {
				b.addFailure(image, err)
			}
		}
	}
}

// check runs one test. A difference is an *imagetest.Error.
func (b *batch) check(ctx context.Context, c gateway.Client, p pending) error {
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
		return &imagetest.Error{Differences: []string{"the image is empty: it has no command to run"}}
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

// solveFor returns the result of a definition, nil for scratch.
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
	defer func() { _ = box.Release(context.WithoutCancel(ctx)) }() // it returns the error of the command again
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
		text := fmt.Sprintf("the command writes more than %d bytes", imagetest.MaxOutput)
		return &imagetest.Error{Differences: []string{text}}
	}
	result.Stdout, result.Stderr = out.Bytes(), errs.Bytes()
	return imagetest.CheckCommand(p.step.Test, result)
}

// capture keeps the output of a test up to a limit, and emits it as output of the step.
type capture struct {
	bytes.Buffer
	over bool
	show func([]byte)
}

// noSecrets returns the secrets of a test: none.
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

// withSetup returns the definition of an image after the setup of a test.
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
			Description:    map[string]string{"llb.customname": s.Name + ": setup: " + strings.Join(command, " ")},
			LinuxResources: s.Resources,
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
	ctx context.Context // of the test, which outlives every use of this value
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

// missing returns fs.ErrNotExist for a daemon's error about a missing file, and other errors as plain errors.
func missing(err error) error {
	if strings.Contains(err.Error(), unix.ENOENT.Error()) || strings.Contains(err.Error(), unix.ENOTDIR.Error()) {
		return &fs.PathError{Op: "stat", Path: "it", Err: os.ErrNotExist}
	}
	return plain(err)
}

// unixMode returns a mode of Go as st_mode.
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

// pieces reads a file in requests of readPiece bytes.
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
		part := &gateway.FileRange{Offset: p.at, Length: readPiece}
		raw, err := p.f.ref.ReadFile(p.f.ctx, gateway.ReadRequest{Filename: p.path, Range: part})
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
