package main

import (
	"context"
	"errors"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/builds"
	"github.com/bakebuild/bake/executor/report"
)

// record starts the recording of a build in this process, or on daemons if there are any.
func (s *session) record(p *config.Project, builders []buildkitd.Builder) *builds.Recording {
	engine := embeddedEngine
	if len(builders) > 0 {
		var names []string
		for _, b := range builders {
			names = append(names, b.Address)
		}
		engine = strings.Join(names, ", ")
	}
	return builds.Record(s.store, builds.Options{
		Facts:    report.Facts{Tool: version(), Engine: engine, Dir: p.Dir, Targets: p.Requested},
		KeepLogs: len(builders) > 0,
		Warn:     func(err error) { s.app.note("cannot record this build in the history: %v", err) },
	})
}

// isInterrupted reports whether the user ended the command.
func isInterrupted(ctx context.Context, err error) bool {
	var sig signalError
	return err != nil && (errors.As(context.Cause(ctx), &sig) || errors.Is(err, context.Canceled))
}
