package planner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/config"
)

// Requests to the frontend other than a build, under the frontend's names.
const (
	CallLint    = "lint"    // findings of the linter
	CallOutline = "outline" // build arguments, secrets and SSH sockets that a build uses
	CallTargets = "targets" // stages
)

// Answer is the frontend's answer about one target.
type Answer struct {
	Target   string
	JSON     []byte // in the frontend's format
	Warnings int    // number of findings of the linter
	Failure  string // why the Dockerfile cannot be built, according to the linter; "" if it can
	text     []byte
	lint     *lint.LintResults // of the linter; nil for other requests
}

// Print writes the answer as text.
func (a *Answer) Print(w io.Writer) error {
	_, err := w.Write(a.text)
	return err
}

// Call sends the request in each requested target's call attribute to the frontend, and returns the answers in order.
// Linked targets are planned first.
func Call(ctx context.Context, project *config.Project, opts Options) ([]Answer, error) {
	p := newPlan(ctx, project, opts)
	defer p.bases.end()
	all, err := p.order()
	if err != nil {
		return nil, err
	}
	linked := map[string]bool{}
	for _, t := range all {
		for _, link := range linksOf(t) {
			linked[link] = true
		}
	}
	first := slices.DeleteFunc(slices.Clone(all), func(t *config.Target) bool { return !linked[t.Name] })
	if err := p.run(ctx, first); err != nil {
		return nil, err
	}
	var answers []Answer
	var errs []error
	for _, name := range project.Requested {
		a, err := p.call(ctx, project.Targets[name])
		answers, errs = append(answers, a), append(errs, err)
	}
	return answers, join(errs)
}

// call sends the request of one target.
func (p *plan) call(ctx context.Context, t *config.Target) (a Answer, err error) {
	defer func() {
		if err != nil && !isLocated(err) {
			err = &DockerfileError{Target: t.Name, Err: err}
		}
	}()
	defer recoverTo(&err)
	want, err := p.platformsOf(t)
	if err != nil {
		return a, err
	}
	f, err := p.frontEnd(ctx, t, want)
	if err != nil {
		return a, err
	}
	f.opt.TargetPlatform = &want[0]
	clear(f.in.client.remotes) // no step runs, so no named context is downloaded
	a.Target = t.Name
	switch t.Call {
	case CallLint, "check":
		err = a.check(ctx, f)
	case CallOutline:
		err = a.outline(ctx, f)
	case CallTargets:
		err = a.targets(ctx, f)
	default:
		return a, p.targetError(t, "call", fmt.Errorf("unknown call %q; use build, check, outline or targets", t.Call))
	}
	if err != nil && !isLocated(err) {
		err = f.file.frontEndError(t.Name, err)
	}
	return a, err
}

func (a *Answer) check(ctx context.Context, f *frontEnd) error {
	f.opt.SourceMap.Definition = &llb.Definition{} // the linter dereferences it
	found, err := dockerfile2llb.DockerfileLint(ctx, f.file.data, f.opt)
	if err != nil {
		return err
	}
	a.lint = found
	for _, s := range found.Sources {
		s.Data = f.file.written
	}
	for _, w := range found.Warnings {
		f.file.originalLines(w.Location)
	}
	if found.Error != nil {
		f.file.originalLines(&found.Error.Location)
		a.Failure = found.Error.Message
	}
	return a.show()
}

// originalLines maps the lines of a location to those of the file.
func (d dockerfile) originalLines(l *pb.Location) {
	for _, r := range l.GetRanges() {
		for _, at := range []*pb.Position{r.GetStart(), r.GetEnd()} {
			if at != nil {
				at.Line = int32(d.lines.original(int(at.Line)))
			}
		}
	}
}

// Add adds findings of this program to those of the linter.
func (a *Answer) Add(found []Warning) error {
	if a.lint == nil {
		return nil
	}
	for _, w := range found {
		at := []parser.Range{{
			Start: parser.Position{Line: max(w.Location.Start, 1)}, End: parser.Position{Line: max(w.Location.End, 1)},
		}}
		a.lint.AddWarning(w.Rule, w.Description, w.URL, w.Message, 0, at)
	}
	return a.show()
}

// show sets the text and the JSON of the linter's findings.
func (a *Answer) show() error {
	var err error
	if a.JSON, err = lintJSON(a.lint); err != nil {
		return err
	}
	var b bytes.Buffer
	a.Warnings = len(a.lint.Warnings)
	switch {
	case a.Warnings == 1:
		fmt.Fprintln(&b, "Check complete, 1 warning has been found!")
	case a.Warnings > 1:
		fmt.Fprintf(&b, "Check complete, %d warnings have been found!\n", a.Warnings)
	case a.lint.Error == nil:
		fmt.Fprintln(&b, "Check complete, no warnings found.")
	}
	if err := a.lint.PrintTo(&b, nil); err != nil {
		return err
	}
	if a.lint.Error != nil {
		a.lint.PrintErrorTo(&b, nil)
	}
	a.text = b.Bytes()
	return nil
}

func (a *Answer) outline(ctx context.Context, f *frontEnd) error {
	o, err := dockerfile2llb.Dockerfile2Outline(ctx, f.file.data, f.opt)
	if err != nil {
		return err
	}
	return a.fill(o, outline.PrintOutline)
}

func (a *Answer) targets(ctx context.Context, f *frontEnd) error {
	list, err := dockerfile2llb.ListTargets(ctx, f.file.data)
	if err != nil {
		return err
	}
	return a.fill(list, targets.PrintTargets)
}

// fill sets the answer from the frontend's value, as JSON and as the text that the frontend prints.
func (a *Answer) fill(v any, print func([]byte, io.Writer) error) error {
	var err error
	if a.JSON, err = json.MarshalIndent(v, "", "  "); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := print(a.JSON, &b); err != nil {
		return err
	}
	a.text = b.Bytes()
	return nil
}

// lintJSON returns the result of the linter as buildx prints it: with a build error also as text, in "error".
func lintJSON(found *lint.LintResults) ([]byte, error) {
	raw, err := json.Marshal(found)
	if err != nil || found.Error == nil {
		return indented(raw), err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	found.PrintErrorTo(&text, nil)
	if fields["error"], err = json.Marshal(text.String()); err != nil {
		return nil, err
	}
	raw, err = json.Marshal(fields)
	return indented(raw), err
}

func indented(raw []byte) []byte {
	var b bytes.Buffer
	if json.Indent(&b, raw, "", "  ") != nil {
		return raw
	}
	return b.Bytes()
}
