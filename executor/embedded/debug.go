package embedded

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// shells lists the shells to look for, in order.
func shells() []string {
	return []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh", "/bin/zsh"}
}

// debug opens a shell in the root file system of a failed command, with its mounts, variables, user and secrets. Only
// one shell is open at a time; steps that have not started wait until it ends. Changes made in it are discarded.
func (s *execRoot) debug(ctx context.Context, spec sandbox.Spec, failed *executor.StepError) {
	b := s.x.n.b
	if b.opts.Debug == nil || ctx.Err() != nil {
		return
	}
	b.shell.Lock()
	defer b.shell.Unlock()
	if ctx.Err() != nil { // the build stopped while another shell was open
		return
	}
	shell := s.findShell(ctx)
	if shell == "" {
		b.opts.Debug(failed, nil)
		return
	}
	b.opts.Debug(failed, func(terminal *os.File, name string) error {
		if err := s.freshWork(&spec); err != nil {
			return err
		}
		spec.Args, spec.Terminal = []string{shell}, terminal
		spec.Env = withDefault(spec.Env, "TERM", name)
		_, err := b.engine.opts.Runner.Run(ctx, spec)
		return err
	})
}

// freshWork gives each overlay of a root that has run a new work directory, because overlayfs allows one per mount.
// The files stay.
func (s *execRoot) freshWork(spec *sandbox.Spec) error {
	overlays := []*sandbox.Overlay{&spec.Root}
	for _, m := range spec.Mounts {
		if m.Overlay != nil {
			overlays = append(overlays, m.Overlay)
		}
	}
	for _, o := range overlays {
		if o.Upper == "" {
			continue
		}
		draft, err := s.draft()
		if err != nil {
			return err
		}
		o.Work = draft.Work
	}
	return nil
}

// findShell returns a shell in the step's root, including one that the step itself created, or "".
func (s *execRoot) findShell(ctx context.Context) string {
	found := ""
	_ = s.x.whole[0].in.read(ctx, func(files tree.FS) error { // an unreadable root has no shell
		found = ""
		for _, name := range shells() {
			at, err := tree.Resolve(files, name, true)
			if err != nil {
				continue
			}
			if e, err := files.Lookup(at); err == nil && e.IsRegular() && e.Mode&0o111 != 0 {
				found = name
				break
			}
		}
		return nil
	})
	if found != "" {
		return found
	}
	for _, o := range s.outputs {
		if o.draft == nil || o.mount.GetDest() != pb.RootMount {
			continue
		}
		for _, name := range shells() {
			st, err := os.Lstat(path.Join(o.draft.FS, name))
			if err == nil && st.Mode()&(0o111|os.ModeSymlink) != 0 {
				return name
			}
		}
	}
	return ""
}

// gate waits while a shell is open.
func (b *build) gate(ctx context.Context) error {
	if b.opts.Debug == nil {
		return nil
	}
	b.shell.Lock()
	defer b.shell.Unlock()
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", schedule.ErrSkipped, context.Cause(ctx))
	}
	return nil
}
