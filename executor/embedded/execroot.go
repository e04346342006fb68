package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
)

// execRoot is the file system of one run of an exec step: its root, its mounts, and the layers that it creates.
type execRoot struct {
	x *execStep
	// drafts are all uncommitted layers: outputs, and scratch space that is discarded after the step.
	drafts []*cache.Draft
	// agents are the sockets of the ssh agents that the step uses.
	agents  []net.Listener
	outputs []execOutput
	secrets [][]byte
}

// execOutput is a mount whose changes become an output.
type execOutput struct {
	index int // of the op's outputs
	in    input
	mount *pb.Mount
	draft *cache.Draft // nil: the mount is read-only and its output is its input
}

// spec returns the specification of the process for the sandbox.
func (s *execRoot) spec(ctx context.Context) (sandbox.Spec, error) {
	meta := s.x.exec.GetMeta()
	root, err := s.overlay(ctx, s.x.root)
	if err != nil {
		return sandbox.Spec{}, err
	}
	spec := sandbox.Spec{
		Root: root, Args: meta.GetArgs(), Cwd: meta.GetCwd(), Hostname: hostname(meta),
		Hosts: hostsFile(meta), Network: networkOf(s.x.exec), Limits: limitsOf(s.x.n.step.Resources),
		ResolvConf:    resolvConf(s.x.exec.GetNetwork()),
		MountpointDir: s.x.n.b.store.MountpointDir(),
		Insecure:      s.x.exec.GetSecurity() == pb.SecurityMode_INSECURE,
	}
	if spec.Cwd == "" {
		spec.Cwd = "/"
	}
	for i, m := range s.x.exec.GetMounts() {
		if m.GetDest() == pb.RootMount {
			continue
		}
		mount, err := s.mount(ctx, i, m)
		if err != nil {
			return spec, mountError(m.GetDest(), err)
		}
		for _, one := range mount { // of several mounts at one path the last counts
			dest := path.Clean(one.Dest)
			same := func(old sandbox.Mount) bool { return path.Clean(old.Dest) == dest }
			spec.Mounts = slices.DeleteFunc(spec.Mounts, same)
		}
		spec.Mounts = append(spec.Mounts, mount...)
	}
	home, err := s.user(ctx, &spec)
	if err != nil {
		return spec, err
	}
	secrets, err := s.secretEnv()
	if err != nil {
		return spec, err
	}
	spec.Env = environment(meta, secrets, home)
	shortened(&spec)
	return spec, s.limits(&spec)
}

// mountError adds the mount to an error, unless it is a complete StepError.
func mountError(dest string, err error) error {
	var own *executor.StepError
	if errors.As(err, &own) {
		return err
	}
	return fmt.Errorf("mount %s: %w", dest, err)
}

// overlay returns the overlay for a mount's input: with a new layer on top, unless the mount is read-only. The layer
// is discarded after the step unless it is an output.
func (s *execRoot) overlay(ctx context.Context, m *pb.Mount) (sandbox.Overlay, error) {
	in := s.x.n.input(int(m.GetInput()))
	c, err := in.chain(ctx)
	if err != nil {
		return sandbox.Overlay{}, err
	}
	dirs, err := s.x.n.b.dirs(ctx, c)
	if err != nil {
		return sandbox.Overlay{}, err
	}
	if m.GetReadonly() {
		s.keep(m, in, nil)
		return sandbox.Overlay{Lower: dirs}, nil
	}
	draft, err := s.draft()
	if err != nil {
		return sandbox.Overlay{}, err
	}
	if err := rootAttributes(dirs, draft.FS); err != nil {
		return sandbox.Overlay{}, err
	}
	s.keep(m, in, draft)
	return sandbox.Overlay{Lower: dirs, Upper: draft.FS, Work: draft.Work}, nil
}

// draft starts a layer that is discarded unless commit stores it.
func (s *execRoot) draft() (*cache.Draft, error) {
	d, err := s.x.n.b.store.NewLayer()
	if err == nil {
		s.drafts = append(s.drafts, d)
	}
	return d, err
}

// keep records that a mount's changes become an output.
func (s *execRoot) keep(m *pb.Mount, in input, draft *cache.Draft) {
	if m.GetOutput() >= 0 {
		s.outputs = append(s.outputs, execOutput{int(m.GetOutput()), in, m, draft})
	}
}

// rootAttributes gives the directory of a new layer the mode and owner of the root below. In an overlay the
// attributes of the topmost layer count.
func rootAttributes(lower []string, dir string) error {
	if len(lower) == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(lower[0], &st); err != nil {
		return fmt.Errorf("stat layer %s: %w", lower[0], err)
	}
	if err := os.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return idmap.Explain(err, st.Uid, st.Gid)
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

// mount returns one mount other than the root. It is empty for an optional secret that is not provided.
func (s *execRoot) mount(ctx context.Context, index int, m *pb.Mount) ([]sandbox.Mount, error) {
	switch m.GetMountType() {
	case pb.MountType_BIND:
		return s.bind(ctx, m)
	case pb.MountType_CACHE:
		return s.cacheMount(index, m)
	case pb.MountType_TMPFS:
		if path.Clean("/"+m.GetDest()) == "/dev" {
			return nil, nil // the step's own /dev is a tmpfs already
		}
		return []sandbox.Mount{{
			Dest: m.GetDest(), Kind: sandbox.Tmpfs, Size: m.GetTmpfsOpt().GetSize(),
			Readonly: m.GetReadonly(),
		}}, nil
	case pb.MountType_SECRET:
		return s.secretMount(m)
	case pb.MountType_SSH:
		return s.sshMount(m)
	}
	return nil, fmt.Errorf("unknown mount type %d", m.GetMountType())
}

// bind mounts files of another step or of a build context. What the step writes is discarded unless it is an output.
func (s *execRoot) bind(ctx context.Context, m *pb.Mount) ([]sandbox.Mount, error) {
	in := s.x.n.input(int(m.GetInput()))
	if in.scratch() || m.GetOutput() >= 0 && !m.GetReadonly() {
		o, err := s.overlay(ctx, m)
		if err != nil {
			return nil, err
		}
		if m.GetSelector() != "" && path.Clean("/"+m.GetSelector()) != "/" {
			return nil, errors.New("a mount with an output cannot select a part of its input")
		}
		if len(o.Lower) == 0 { // scratch: an overlay needs a lower directory
			return s.bindEmpty(m, o.Upper)
		}
		return overlayMount(m, &o), nil
	}
	files, err := s.selected(ctx, in, m)
	if err != nil {
		return nil, err
	}
	s.keep(m, in, nil)
	if files.file != "" {
		return s.bindFile(m, files.file)
	}
	o := sandbox.Overlay{Lower: files.dirs}
	if !m.GetReadonly() {
		draft, err := s.draft()
		if err != nil {
			return nil, err
		}
		if err := sameAttributes(files.dirs[0], draft.FS); err != nil {
			return nil, err
		}
		o.Upper, o.Work = draft.FS, draft.Work
	}
	return overlayMount(m, &o), nil
}

func overlayMount(m *pb.Mount, o *sandbox.Overlay) []sandbox.Mount {
	return []sandbox.Mount{{Dest: m.GetDest(), Kind: sandbox.OverlayMount, Overlay: o, Readonly: m.GetReadonly()}}
}

// bindEmpty mounts the directory of a new layer, or an empty directory if there is no output.
func (s *execRoot) bindEmpty(m *pb.Mount, dir string) ([]sandbox.Mount, error) {
	if dir == "" {
		draft, err := s.draft()
		if err != nil {
			return nil, err
		}
		dir = draft.FS
	}
	return []sandbox.Mount{{Dest: m.GetDest(), Kind: sandbox.Bind, Source: dir, Readonly: m.GetReadonly()}}, nil
}

// snapshotPlace is the path of a selection of a context in its snapshot layer, whether a directory or a file.
const snapshotPlace = "/selected"

// selected returns the files on disk that a bind mount selects from its input.
func (s *execRoot) selected(ctx context.Context, in input, m *pb.Mount) (subtree, error) {
	sel := keys.MountSelection(m)
	if in.local() {
		id, err := in.node.local.copyOut(ctx, sel, snapshotPlace)
		if err != nil {
			return subtree{}, err
		}
		dirs, err := s.x.n.b.dirs(ctx, (*chain)(nil).push(id, false))
		if err != nil {
			return subtree{}, err
		}
		return findSubtree(dirs, snapshotPlace)
	}
	c, err := in.chain(ctx)
	if err != nil {
		return subtree{}, err
	}
	dirs, err := s.x.n.b.dirs(ctx, c)
	if err != nil {
		return subtree{}, err
	}
	var place string
	err = in.read(ctx, func(files tree.FS) error {
		place, err = tree.Resolve(files, path.Join("/", sel.Src), true)
		return err
	})
	if err != nil {
		return subtree{}, err
	}
	return findSubtree(dirs, place)
}

// bindFile mounts one file; a copy if it is writable.
func (s *execRoot) bindFile(m *pb.Mount, file string) ([]sandbox.Mount, error) {
	if !m.GetReadonly() {
		draft, err := s.draft()
		if err != nil {
			return nil, err
		}
		own := draft.FS + "/file"
		if err := copyFile(file, own); err != nil {
			return nil, err
		}
		file = own
	}
	return []sandbox.Mount{{Dest: m.GetDest(), Kind: sandbox.Bind, Source: file, Readonly: m.GetReadonly()}}, nil
}

// secretMount mounts a secret's value as a file that exists only in memory.
func (s *execRoot) secretMount(m *pb.Mount) ([]sandbox.Mount, error) {
	o := m.GetSecretOpt()
	value, ok, err := s.x.n.secret(o.GetID(), o.GetOptional())
	if err != nil || !ok {
		return nil, err
	}
	s.secrets = append(s.secrets, value)
	return []sandbox.Mount{{
		Dest: m.GetDest(), Kind: sandbox.File, Content: value, Readonly: true,
		Mode: o.GetMode(), UID: o.GetUid(), GID: o.GetGid(),
	}}, nil
}

// secretEnv returns the secrets that are environment variables.
func (s *execRoot) secretEnv() ([]string, error) {
	var env []string
	for _, e := range s.x.exec.GetSecretenv() {
		value, ok, err := s.x.n.secret(e.GetID(), e.GetOptional())
		if err != nil {
			return nil, err
		}
		if ok {
			s.secrets = append(s.secrets, value)
		}
		env = append(env, e.GetName()+"="+string(value)) // empty if the secret is optional and missing
	}
	return env, nil
}

// user resolves the user that the process runs as, in the step's own passwd and group files.
func (s *execRoot) user(ctx context.Context, spec *sandbox.Spec) (home string, err error) {
	name := s.x.exec.GetMeta().GetUser()
	who, err := s.x.whole[0].in.user(ctx, name)
	if err != nil {
		return "", s.x.n.stepError(fmt.Errorf("user %q: %w", name, err), "")
	}
	spec.UID, spec.GID, spec.Groups = who.uid, who.gid, who.groups
	return who.home, nil
}

// limits sets the resource limits (ulimits) of the process.
func (s *execRoot) limits(spec *sandbox.Spec) error {
	for _, u := range s.x.exec.GetMeta().GetUlimit() {
		limit := sandbox.Rlimit{Name: u.GetName(), Soft: uint64(u.GetSoft()), Hard: uint64(u.GetHard())}
		spec.Rlimits = append(spec.Rlimits, limit)
	}
	return nil
}

// commit stores the layers of outputs and discards all others.
func (s *execRoot) commit(ctx context.Context) ([]cache.Output, error) {
	count := 0
	for _, o := range s.outputs {
		count = max(count, o.index+1)
	}
	outputs := make([]cache.Output, count)
	for _, o := range s.outputs {
		var parts []cache.Part
		if !o.in.scratch() && !o.in.local() {
			parts = append(parts, cache.Part{Input: int(o.mount.GetInput()), Index: o.in.index})
		} else if o.in.local() {
			id, err := o.in.node.local.snapshot(ctx, keys.Everything())
			if err == nil {
				err = s.x.overtaken()
			}
			if err != nil {
				return nil, err
			}
			parts = append(parts, cache.Part{Layer: id})
		}
		if o.draft != nil {
			id, err := s.commitDraft(o)
			if err != nil {
				return nil, err
			}
			parts = append(parts, cache.Part{Layer: id})
		}
		outputs[o.index] = cache.Output{Parts: parts}
	}
	return outputs, s.discard()
}

// commitDraft stores one layer; a layer without changes is the empty layer.
func (s *execRoot) commitDraft(o execOutput) (digest.Digest, error) {
	s.drafts = slices.DeleteFunc(s.drafts, func(d *cache.Draft) bool { return d == o.draft })
	size, err := cache.MeasureLayer(o.draft.FS)
	if err != nil {
		return "", errors.Join(err, o.draft.Discard())
	}
	if size.Files == 0 {
		return emptyLayer, o.draft.Commit(emptyLayer, size)
	}
	id := layerID(s.x.finalKey, s.x.n.b.nonce, o.index)
	if err := o.draft.Commit(id, size); err != nil {
		return "", fmt.Errorf("keep layer: %w", err)
	}
	return id, nil
}

// discard drops the layers that are not stored.
func (s *execRoot) discard() error {
	var err error
	for _, d := range s.drafts {
		err = errors.Join(err, d.Discard())
	}
	s.drafts = nil
	return err
}
