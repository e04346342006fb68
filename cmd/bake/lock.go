package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// lockOptions are the flags that say how the lock file is used.
type lockOptions struct {
	mode                    string
	frozen, locked, offline bool
}

func (o *lockOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.mode, "lock", "", "auto uses "+config.LockName+" and resolves what it lacks, frozen refuses that, locked also refuses entries that nothing uses, off ignores it; where CI is set, frozen if there is a lock")
	f.BoolVar(&o.frozen, "frozen", false, "short for --lock=frozen")
	f.BoolVar(&o.locked, "locked", false, "short for --lock=locked")
	f.BoolVar(&o.offline, "offline", false, "ask no registry, server or repository for anything; frozen if there is a lock. Steps keep their network")
}

// The modes of the lock.
const (
	lockAuto   = "auto"
	lockFrozen = "frozen"
	lockLocked = "locked"
	lockOff    = "off"
)

// pins are what a plan takes from the lock file. The zero value is none.
type pins struct {
	lock *config.Lock
	mode string
}

func (p pins) frozen() bool { return p.mode == lockFrozen || p.mode == lockLocked }

// loadPins reads the lock beside the project file. A project that came from elsewhere has none.
func (a *app) loadPins(dir string, o lockOptions) (pins, error) {
	p := pins{mode: o.mode}
	a.offline = o.offline
	switch {
	case o.locked:
		p.mode = lockLocked
	case o.frozen:
		p.mode = lockFrozen
	}
	switch p.mode {
	case "", lockAuto, lockFrozen, lockLocked:
	case lockOff:
		return p, nil
	default:
		return p, usagef("--lock=%s: expected auto, frozen, locked or off", p.mode)
	}
	if a.fetcher != nil {
		return pins{}, nil
	}
	var err error
	if p.lock, err = config.ReadLock(dir); err != nil {
		return p, err
	}
	if ci := a.env("CI"); p.mode == "" && p.lock != nil && (a.offline || ci != "" && ci != "0" && ci != "false") {
		p.mode = lockFrozen
	}
	if p.lock == nil && p.frozen() {
		return p, &planner.LockError{What: "there is no " + config.LockName + " in " + dir + ": run bake pin and commit it"}
	}
	return p, nil
}

// usePins reads the lock for a command that plans, and checks it where it has to be exact.
func (a *app) usePins(ctx context.Context, dir string, o projectOptions, l lockOptions) (pins, error) {
	p, err := a.loadPins(dir, l)
	if err != nil || p.mode != lockLocked {
		return p, err
	}
	s, err := a.open(false)
	if err != nil {
		return p, err
	}
	defer s.Close()
	return p, a.checkLocked(ctx, s, o, p)
}

// noteUnlocked tells of bases that the lock lacks.
func (a *app) noteUnlocked(p pins, g *planner.Graph) {
	if p.lock == nil {
		return
	}
	if missing := unlocked(p.lock, g); len(missing) > 0 {
		a.note("%s lacks %s: bake pin adds what is missing", config.LockName, strings.Join(missing, ", "))
	}
}

// unlocked lists the references and sources that a lock lacks and a plan needs.
func unlocked(l *config.Lock, g *planner.Graph) []string {
	var list []string
	for _, b := range g.Bases {
		if !strings.Contains(b.Ref, "@") && l.Pin(b.Ref) == "" {
			list = append(list, b.Ref)
		}
	}
	for _, s := range g.Sources {
		if l.Pin(s.Key) == "" {
			list = append(list, s.Key)
		}
	}
	return list
}

// unused lists the entries of a lock that a plan does not need.
func unused(l *config.Lock, g *planner.Graph) []string {
	needed := map[string]bool{}
	for _, b := range g.Bases {
		needed[b.Ref] = true
	}
	for _, s := range g.Sources {
		needed[s.Key] = true
	}
	return slices.DeleteFunc(l.Keys(), func(key string) bool { return needed[key] })
}

// deniedError is the policies that deny a build.
type deniedError []planner.Violation

func (e deniedError) Error() string {
	lines := make([]string, len(e))
	for i, v := range e {
		lines[i] = placeOfRange(v.Range) + v.String()
	}
	return strings.Join(lines, "\n")
}

func placeOfRange(r config.Range) string {
	if r.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", r.File, r.Line)
}

// checkRules evaluates the project's policies on a plan: it tells of those that warn, and fails for those that deny.
func (a *app) checkRules(p *config.Project, g *planner.Graph) error {
	found, err := g.CheckPolicies(p)
	if err != nil {
		return err
	}
	var denied deniedError
	for _, v := range found {
		if v.Warn {
			fmt.Fprintf(a.stderr, "warning: %s%s\n", placeOfRange(v.Range), v)
		} else {
			denied = append(denied, v)
		}
	}
	if len(denied) > 0 {
		return denied
	}
	return nil
}

// checkLocked refuses a lock that is not exactly what the whole project needs.
func (a *app) checkLocked(ctx context.Context, s *session, o projectOptions, p pins) error {
	project, err := a.wholeProject(ctx, o)
	if err != nil {
		return err
	}
	graph, err := s.plan(ctx, project, runOptions{pins: p})
	if err != nil {
		return err
	}
	if err := a.checkRules(project, graph); err != nil {
		return err
	}
	return checkUnused(p.lock, graph)
}

// wholeProject is the project with all its targets requested.
func (a *app) wholeProject(ctx context.Context, o projectOptions) (*config.Project, error) {
	o.targets = nil
	opts, err := a.loadOptions(o)
	if err != nil {
		return nil, err
	}
	rows, err := config.List(ctx, opts, "targets")
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.Targets == "" {
			o.targets = append(o.targets, r.Name)
		}
	}
	return a.loadProject(ctx, o)
}
