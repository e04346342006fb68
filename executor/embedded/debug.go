package embedded

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/schedule"
	"github.com/bakebuild/bake/executor/tree"
)

// shells are looked for in this order.
func shells() []string {
	return []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/busybox/sh", "/bin/zsh"}
}

// debug offers a shell in the root of a command that has failed, with its mounts, variables, user and secrets. One is open at
// a time; steps that have not started wait until it ends. What is done in it is thrown away with the root.
func (s *execRoot) debug(ctx context.Context, spec sandbox.Spec, failed *executor.StepError) {
	b := s.x.n.b
	if b.opts.Debug == nil || ctx.Err() != nil {
		return
	}
	b.shell.Lock()
	defer b.shell.Unlock()
	if ctx.Err() != nil { // it was stopped while another one was open
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

// freshWork gives the overlays of a root that has run a working directory each: one is for one mount. The files stay.
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

// findShell is a shell of the step's root, or "". One that the step itself has made is found too.
func (s *execRoot) findShell(ctx context.Context) string {
	found := ""
	_ = s.x.whole[0].in.read(ctx, func(files tree.FS) error { // what cannot be read has no shell
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
		for _, name := range shells() {
			if o.draft == nil {
				continue
			}
			if st, err := os.Lstat(path.Join(o.draft.FS, name)); err == nil && (st.Mode()&0o111 != 0 || st.Mode()&os.ModeSymlink != 0) {
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
