package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/ci"
	"github.com/bakebuild/bake/executor/report"
	"github.com/bakebuild/bake/executor/telemetry"
)

// summarizeForCI appends a summary of a build to the file that GITHUB_STEP_SUMMARY names. An error is a note: it must
// not fail the build.
func (a *app) summarizeForCI(run report.Run) {
	path := a.env("GITHUB_STEP_SUMMARY")
	if path == "" {
		return
	}
	if err := ci.AppendSummary(path, run); err != nil {
		a.note("cannot write GITHUB_STEP_SUMMARY: %v", err)
	}
}

// annotate prints annotations of an error if GitHub Actions runs this command.
func (a *app) annotate(err error) {
	if !isTrue(a.env("GITHUB_ACTIONS")) {
		return
	}
	dir, _ := a.workDir() // without it the annotations have no place
	for _, line := range ci.Annotations(err, dir, a.env("GITHUB_WORKSPACE")) {
		fmt.Fprintln(a.stderr, line)
	}
}

// exportSpans sends a build to the OpenTelemetry collector, if there is one. An error is a note: it must not fail the
// build.
func (a *app) exportSpans(ctx context.Context, run report.Run) {
	if isTrue(a.env("OTEL_SDK_DISABLED")) {
		return
	}
	if err := telemetry.Export(ctx, run, version(), a.env); err != nil {
		a.note("cannot export the trace to OpenTelemetry: %v", err)
	}
}

// writeTrace writes the file of --trace, also for a failed build.
func (o *runOptions) writeTrace(run report.Run) error {
	if o.trace == "" {
		return nil
	}
	var raw bytes.Buffer
	if err := run.WriteTrace(&raw); err != nil {
		return fmt.Errorf("encode the trace: %w", err)
	}
	if err := executor.WriteFile(o.trace, raw.Bytes()); err != nil {
		return fmt.Errorf("write --trace %s: %w", o.trace, err)
	}
	return nil
}
