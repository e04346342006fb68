// Package ci reports builds and errors to the CI service that runs them: the job summary and the annotations of GitHub
// Actions. It imports the types of the planner and the executor, and reports. It reads no environment: the command
// passes what the service set.
package ci

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/report"
	"github.com/bakebuild/bake/planner"
)

// maxAnnotations bounds the annotations of one command: GitHub shows ten of each kind for a step.
const maxAnnotations = 10

// AppendSummary appends the summary of a build, in Markdown, to the file that GITHUB_STEP_SUMMARY names.
func AppendSummary(path string, run report.Run) error {
	var summary bytes.Buffer
	if err := run.WriteMarkdown(&summary); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(summary.Bytes())
	return errors.Join(err, f.Close())
}

// Annotations returns the workflow commands that annotate the failures in err, one line each. Relative files are below
// dir; files in the workspace, the value of GITHUB_WORKSPACE, are shown at their lines. Without dir no place is shown.
func Annotations(err error, dir, workspace string) []string {
	all := []error{err}
	var several *executor.Failures
	if errors.As(err, &several) {
		all = several.All
	}
	var lines []string
	for _, one := range all[:min(len(all), maxAnnotations)] {
		lines = append(lines, fmt.Sprintf("::error %s::%s", properties(one, dir, workspace),
			escapeCommand(one.Error())))
	}
	return lines
}

// properties returns the properties of an error's workflow command: a title and, if the error is in a Dockerfile of the
// file system, file and lines.
func properties(err error, dir, workspace string) string {
	title := "title=bake"
	at, ok := placeOfError(err)
	if !ok || dir == "" {
		return title
	}
	file := at.File
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return title // an inline Dockerfile, or a remote one: the message names it
	}
	if rel, err := filepath.Rel(workspace, file); err == nil && filepath.IsLocal(rel) {
		file = rel
	}
	place := "file=" + escapeProperty(filepath.ToSlash(file))
	if at.Start > 0 {
		place += fmt.Sprintf(",line=%d,endLine=%d", at.Start, max(at.Start, at.End))
	}
	return place + "," + title
}

// placeOfError returns the first place of an error in a Dockerfile.
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

// escapeCommand escapes the message of a workflow command.
func escapeCommand(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

// escapeProperty escapes the value of a property of a workflow command.
func escapeProperty(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}
