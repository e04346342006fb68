// Package builds keeps and reads the history of builds in the cache directory: the record of each build, the output of
// its steps where the engine keeps none, and the plans that a later build of the same project can use again.
//
// It imports the cache, the reports that it stores, and the executor and planner types that they contain. It knows no
// engine and prints nothing.
package builds

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/report"
)

// Error is a request that the history cannot serve: it names no build or step, or several.
type Error struct{ text string }

func (e *Error) Error() string { return e.text }

func errorf(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// List returns the summaries of the stored builds, newest first. It skips a build that cannot be read: another process
// may have removed it. A build that is recorded as running, but whose process has ended, counts as interrupted.
func List(s *cache.Store) ([]report.Summary, error) {
	names, err := s.Builds()
	if err != nil {
		return nil, err
	}
	list := []report.Summary{}
	for _, name := range names {
		f, err := s.OpenBuild(name)
		if err != nil {
			continue
		}
		b, err := report.DecodeSummary(f)
		f.Close()
		if b.Status == report.Running && !s.SessionAlive(b.Session) {
			b.Status, b.Session = report.Interrupted, ""
		}
		if err == nil {
			list = append(list, b)
		}
	}
	return list, nil
}

// Read returns the build whose id is name, or begins or ends with it; "last" and "" name the newest build.
func Read(s *cache.Store, name string) (report.Run, error) {
	if name == "last" {
		name = ""
	}
	ids, err := s.Builds()
	if err != nil {
		return report.Run{}, err
	}
	if len(ids) == 0 {
		return report.Run{}, errorf("no build is recorded yet; run bake build")
	}
	var found []string
	for _, id := range ids {
		if name == "" || strings.HasPrefix(id, name) || strings.HasSuffix(id, name) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 0:
		return report.Run{}, errorf("no build with id %q; list builds with bake builds ls", name)
	case name != "" && len(found) > 1:
		return report.Run{}, errorf("id %q is ambiguous: it matches %d builds; list builds with bake builds ls",
			name, len(found))
	}
	raw, err := s.Build(found[0])
	if err != nil {
		return report.Run{}, err
	}
	run, err := report.Decode(raw)
	if err != nil {
		return run, fmt.Errorf("build %s: %w", found[0], err)
	}
	if run.Status != report.Running {
		return run, nil
	}
	logs, err := s.SessionLogs(run.Session, run.Started)
	return run.Unfinished(s.SessionAlive(run.Session), logs), err
}

// Steps returns the steps of a build that names select, by index in ascending order. Each name is one of a target,
// which selects the steps of that target, or selects steps as report.Run.FindSteps does.
func Steps(run report.Run, names []string) ([]int, error) {
	steps := []int{}
	for _, name := range names {
		found := run.OfTarget(name)
		if len(found) == 0 {
			found = run.FindSteps(name)
		}
		if len(found) == 0 {
			return nil, errorf("no target or step matches %q", name)
		}
		steps = append(steps, found...)
	}
	slices.Sort(steps)
	return slices.Compact(steps), nil
}

// LastExplained returns the newest build of the project in dir in which a step that names select ran, and why it ran.
// The explanation has no roots if there is no such build.
func LastExplained(s *cache.Store, dir string, names []string) (report.Run, report.Explanation, error) {
	list, err := List(s)
	if err != nil {
		return report.Run{}, report.Explanation{}, err
	}
	for _, b := range list {
		if b.Dir != dir || b.Ran+b.Failed == 0 {
			continue
		}
		run, err := Read(s, b.ID)
		if err != nil {
			continue
		}
		steps, err := Steps(run, names)
		if err != nil {
			continue // a build of other targets
		}
		if found := run.Explain(steps); len(found.Roots) > 0 {
			return run, found, nil
		}
	}
	return report.Run{}, report.Explanation{}, nil
}
