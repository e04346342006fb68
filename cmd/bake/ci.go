package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/report"
	"github.com/bakebuild/bake/planner"
)

// maxAnnotations bounds the errors that GitHub is told of; it shows ten of a step.
const maxAnnotations = 10

// summarizeForCI appends a summary of a build to the file that GITHUB_STEP_SUMMARY names. That it cannot be written is
// noted and fails no build.
func (a *app) summarizeForCI(run report.Run) {
	path := a.env("GITHUB_STEP_SUMMARY")
	if path == "" {
		return
	}
	var summary bytes.Buffer
	err := run.WriteMarkdown(&summary)
	if err == nil {
		err = appendFile(path, summary.Bytes())
	}
	if err != nil {
		a.note("GITHUB_STEP_SUMMARY: %v", err)
	}
}

// appendFile adds to a file, which it makes if there is none.
func appendFile(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Close())
}

// writeTrace writes the file of --trace, also of a build that failed.
func (o *runOptions) writeTrace(run report.Run) error {
	if o.trace == "" {
		return nil
	}
	var raw bytes.Buffer
	if err := run.WriteTrace(&raw); err != nil {
		return fmt.Errorf("make the trace: %w", err)
	}
	if err := renameio.WriteFile(o.trace, raw.Bytes(), os.FileMode(0o644)); err != nil {
		return fmt.Errorf("write --trace %s: %w", o.trace, err)
	}
	return nil
}

// annotate tells GitHub, where it is the one that runs this, of each error and its place, which it shows beside the line.
func (a *app) annotate(err error) {
	if !isTrue(a.env("GITHUB_ACTIONS")) {
		return
	}
	all := []error{err}
	var several *executor.Failures
	if errors.As(err, &several) {
		all = several.All
	}
	for _, one := range all[:min(len(all), maxAnnotations)] {
		fmt.Fprintf(a.stderr, "::error %s::%s\n", a.annotationPlace(one), escapeCommand(one.Error()))
	}
}

// annotationPlace has the properties of a workflow command for an error: a title and, where the error has a place in a
// Dockerfile that is in the workspace, file and lines.
func (a *app) annotationPlace(err error) string {
	title := "title=bake"
	at, ok := placeOfError(err)
	if !ok {
		return title
	}
	dir, dirErr := a.workDir()
	if dirErr != nil {
		return title
	}
	file := at.File
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return title // an inline Dockerfile, or a remote one: the message names it
	}
	if rel, err := filepath.Rel(a.env("GITHUB_WORKSPACE"), file); err == nil && filepath.IsLocal(rel) {
		file = rel
	}
	place := "file=" + escapeProperty(filepath.ToSlash(file))
	if at.Start > 0 {
		place += fmt.Sprintf(",line=%d,endLine=%d", at.Start, max(at.Start, at.End))
	}
	return place + "," + title
}

// placeOfError is where in a Dockerfile an error began.
func placeOfError(err error) (planner.Location, bool) {
	var step *executor.StepError
	var file *planner.DockerfileError
	switch {
	case errors.As(err, &step) && len(step.Source) > 0:
		return step.Source[0], true
	case errors.As(err, &file) && file.File != "":
		return planner.Location{File: file.File, Start: file.Line, End: file.Line}, true
	}
	return planner.Location{}, false
}

// escapeCommand keeps a message in its line of GitHub's workflow commands.
func escapeCommand(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

// escapeProperty keeps a value in its property of a workflow command.
func escapeProperty(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}
