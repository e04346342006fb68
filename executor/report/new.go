package report

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// Facts holds the data from which New builds a Run. Graph and Report may be nil, if the build failed before they
// existed.
type Facts struct {
	ID, Tool, Engine, Dir string
	Targets               []string
	Started, Completed    time.Time // of the whole command
	Graph                 *planner.Graph
	Report                *executor.Report
	Spans                 []Span
	Logs                  map[digest.Digest]string // log files by step, for steps without one in the report
	Err                   error
	Interrupted           bool
	Session               string // cache session of a running build; Completed then equals Started
}

// New returns the Run of a build. Its lists are not nil, so they are arrays in JSON.
func New(f Facts) Run {
	r := Run{
		Version: RunVersion, ID: f.ID, Tool: f.Tool, Engine: f.Engine, Dir: f.Dir,
		Targets: append([]string{}, f.Targets...),
		Status:  Built, Started: f.Started.UTC(), Completed: f.Completed.UTC(),
		Steps: []Step{}, Spans: []Span{}, Images: []Image{}, Bases: []Base{}, Warnings: []Warning{},
		Failures: failures(f.Err),
	}
	switch {
	case f.Session != "":
		r.Status, r.Session = Running, f.Session
	case f.Interrupted:
		r.Status = Interrupted
	case f.Err != nil:
		r.Status = Failed
	}
	for _, s := range f.Spans {
		s.Start, s.End = s.Start.UTC(), s.End.UTC()
		r.Spans = append(r.Spans, s)
	}
	if f.Graph != nil {
		r.fromGraph(f)
	}
	return r
}

// fromGraph sets the fields that need a graph: steps, images, bases and warnings.
func (r *Run) fromGraph(f Facts) {
	r.Declared = f.Graph.Declared
	index := make(map[*planner.Step]int, len(f.Graph.Steps))
	tested := f.Graph.Tested()
	for i, s := range f.Graph.Steps {
		index[s] = i
		r.Steps = append(r.Steps, newStep(s, index))
		for _, image := range tested[s] {
			r.Steps[i].Tests = append(r.Steps[i].Tests, index[image])
		}
	}
	same := map[digest.Digest]digest.Digest{}
	if f.Report != nil {
		for i, result := range f.Report.Steps {
			r.Steps[i].setResult(result)
			if result.Same != "" {
				same[r.Steps[i].Digest] = result.Same
			}
		}
	}
	names := make(map[digest.Digest]bool, len(r.Steps))
	for i := range r.Steps {
		s := &r.Steps[i]
		names[s.Digest] = true
		if s.Log == "" {
			s.Log = base(f.Logs[s.Digest])
		}
	}
	for i := range r.Spans {
		if names[r.Spans[i].Step] {
			r.Spans[i].Name = ""
		}
	}
	at := r.mergeSame(same)
	for s, i := range index {
		index[s] = at[i]
	}
	r.addImages(f, index)
	for _, b := range f.Graph.Bases {
		r.Bases = append(r.Bases, Base{
			Ref: b.Ref, Digest: b.Digest, Locked: b.Locked, Targets: b.Targets, Places: b.Places, Created: b.Created,
		})
	}
	for _, w := range f.Graph.Warnings {
		r.Warnings = append(r.Warnings, Warning{
			Target: w.Target, Rule: w.Rule, Message: w.Message, URL: w.URL, Location: w.Location,
		})
	}
}

func newStep(s *planner.Step, index map[*planner.Step]int) Step {
	out := Step{Digest: s.Digest, Name: s.Name, Kind: s.Kind(), Source: s.Source, Targets: s.Targets}
	if p := s.Op.GetPlatform(); p != nil {
		out.Platform = platforms.FormatAll(p.Spec())
	}
	for _, in := range s.Inputs {
		if i, ok := index[in.Step]; ok && !slices.Contains(out.Inputs, i) {
			out.Inputs = append(out.Inputs, i)
		}
	}
	return out
}

// setResult sets the fields of a step's result.
func (s *Step) setResult(r executor.StepResult) {
	s.Status, s.Key, s.Reason, s.Causes, s.Log = r.Status, r.Key, r.Reason, r.Causes, base(r.Log)
	s.Expected, s.Claim = r.Expected.Seconds(), r.Claim
	if r.Err != nil {
		s.Error = r.Err.Error()
	}
}

// base returns the last element of a path, or "" for "".
func base(path string) string {
	if path == "" {
		return ""
	}
	return filepath.Base(path)
}

// addImages adds an image for each platform of each requested target, finished or not.
func (r *Run) addImages(f Facts, index map[*planner.Step]int) {
	results := map[string]executor.ImageResult{}
	if f.Report != nil {
		for _, image := range f.Report.Images {
			results[image.Target] = image
		}
	}
	for _, m := range f.Graph.Images {
		image := Image{Target: m.Target, Platform: platforms.FormatAll(m.Platform), Root: -1, Tags: m.Tags}
		if m.Root.Step != nil {
			image.Root = index[m.Root.Step]
		}
		image.Config = imageFacts(image.Platform, m.Config)
		if m.Base.Ref != "" {
			image.Base = m.Base.Ref + "@" + m.Base.Digest.String()
		}
		if result, ok := results[m.Target]; ok {
			image.setResult(result)
		}
		r.Images = append(r.Images, image)
	}
}

// setResult sets the fields of the result of the image's target.
func (i *Image) setResult(result executor.ImageResult) {
	i.Finished, i.MediaType = true, result.MediaType
	if len(result.Tags) > 0 {
		i.Tags = result.Tags
	}
	for _, p := range result.Platforms {
		if p.Platform == i.Platform {
			i.Digest, i.Layers = p.Digest, p.Layers
		}
	}
	if result.Digest != i.Digest {
		i.Index = result.Digest
	}
}

// failures returns the errors of a build.
func failures(err error) []Failure {
	out := []Failure{}
	if err == nil {
		return out
	}
	all := []error{err}
	var several *executor.Failures
	if errors.As(err, &several) {
		all = several.All
	}
	for _, one := range all {
		failure := Failure{Message: one.Error()}
		var step *executor.StepError
		if errors.As(one, &step) {
			failure.Targets, failure.Source, failure.Last, failure.Log = step.Targets, step.Source, step.Last,
				base(step.Log)
		}
		out = append(out, failure)
	}
	return out
}

// imageFacts returns the facts in an image config.
func imageFacts(platform string, config []byte) ImageFacts {
	var image ocispecs.Image
	_ = json.Unmarshal(config, &image) // cannot fail: the frontend encoded it
	c := image.Config
	return ImageFacts{
		Platform: platform, User: c.User, Labels: c.Labels, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		Workdir: c.WorkingDir, Ports: slices.Sorted(maps.Keys(c.ExposedPorts)),
	}
}
