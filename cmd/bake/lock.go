package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
	"github.com/bakebuild/bake/planner/pins"
)

// lockOptions are the flags for how the lock file is used.
type lockOptions struct {
	mode                    string
	frozen, locked, offline bool
}

func (o *lockOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.mode, "lock", "",
		"auto: resolve missing pins; frozen: fail if a pin is missing; locked: also fail on unused pins; "+
			"off: ignore "+config.LockName+" (default auto, or frozen if CI is set and the file exists)")
	f.BoolVar(&o.frozen, "frozen", false, "shorthand for --lock=frozen")
	f.BoolVar(&o.locked, "locked", false, "shorthand for --lock=locked")
	f.BoolVar(&o.offline, "offline", false,
		"use only what is cached: contact no registry or server; implies --frozen if "+config.LockName+
			" exists; RUN steps keep their network")
}

// readLock reads the lock of the project in dir. It also sets a.offline. A remote project has no lock.
func (a *app) readLock(dir string, o lockOptions) (pins.Lock, error) {
	a.offline = o.offline
	mode, err := pins.ParseMode(o.mode)
	switch {
	case o.locked:
		mode = pins.Locked
	case o.frozen:
		mode = pins.Frozen
	case err != nil:
		return pins.Lock{}, usagef("--lock=%s: %w", o.mode, err)
	}
	if a.fetcher != nil {
		return pins.Lock{}, nil
	}
	ci := a.env("CI")
	return pins.ReadLock(dir, mode, a.offline || ci != "" && ci != "0" && ci != "false")
}

// usePins reads the lock for a command that plans. In mode locked it also checks it against the whole project.
func (a *app) usePins(ctx context.Context, dir string, o projectOptions, l lockOptions) (pins.Lock, error) {
	lock, err := a.readLock(dir, l)
	a.pins = lock
	if err != nil || lock.Mode != pins.Locked {
		return lock, err
	}
	s, err := a.open(false)
	if err != nil {
		return lock, err
	}
	defer s.Close()
	return lock, a.checkLocked(ctx, s, o, lock)
}

// noteMissing notes what a graph uses and the lock does not pin.
func (a *app) noteMissing(lock pins.Lock, g *planner.Graph) {
	if lock.File == nil {
		return
	}
	if missing := pins.Missing(lock.File, g); len(missing) > 0 {
		a.note("%s does not pin %s; to add missing pins: bake pin", config.LockName, strings.Join(missing, ", "))
	}
}

// checkLocked checks that a lock pins exactly what the whole project uses, and that its policies hold.
func (a *app) checkLocked(ctx context.Context, s *session, o projectOptions, lock pins.Lock) error {
	project, err := a.wholeProject(ctx, o)
	if err != nil {
		return err
	}
	graph, err := s.plan(ctx, project, runOptions{pins: lock})
	if err != nil {
		return err
	}
	if err := a.checkRules(project, graph); err != nil {
		return err
	}
	return pins.CheckUnused(lock.File, graph)
}

// wholeProject loads the project with all its targets requested.
func (a *app) wholeProject(ctx context.Context, o projectOptions) (*config.Project, error) {
	urls, _ := splitURLs(o.targets)
	o.targets = urls
	opts, err := a.loadOptions(ctx, o)
	if err != nil {
		return nil, err
	}
	names, err := config.TargetNames(ctx, opts)
	if err != nil {
		return nil, err
	}
	o.targets = slices.Concat(urls, slices.DeleteFunc(slices.Sorted(slices.Values(names)), config.IsPrivate))
	return a.loadProject(ctx, o)
}
