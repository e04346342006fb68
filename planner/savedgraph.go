package planner

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/config"
)

// savedGraph is the stored form of a graph. It leaves out what the project provides: tags, annotations, outputs,
// secrets and SSH agents.
type savedGraph struct {
	Steps           []savedStep
	Images          []savedImage
	Locals, Layouts map[string]Local
	Targets         []string // all planned targets, linked ones included
	Declared        int
	Warnings        []Warning
	OwnerChecks     map[string]OwnerCheck
}

type savedStep struct {
	Digest        digest.Digest
	Op, Resources []byte // protobuf messages; Resources is empty if the step has none
	Inputs        []savedEdge
	Name, Own     string // see Step
	Source        []Location
	Targets       []string
	NoCache       bool
	Test          []byte // JSON, which unlike gob distinguishes empty and nil lists; empty if the step is not a test
}

// savedEdge is an Edge. Step counts from 1; 0 is scratch.
type savedEdge struct{ Step, Index int }

type savedImage struct {
	Target        string
	Platform      ocispecs.Platform
	MultiPlatform bool
	Root          savedEdge
	Config        []byte
	Base          Base
	Epoch         *time.Time
	Tests         []int // steps, counted as in savedEdge
}

// saveGraph returns the stored form of a graph. It is an error if the graph contains a password, or resources that
// would not be the same after decoding.
func saveGraph(g *Graph, targets []*config.Target) (savedGraph, error) {
	s := savedGraph{Locals: g.Locals, Layouts: g.Layouts, Targets: names(targets), Declared: g.Declared,
		Warnings: g.Warnings, OwnerChecks: g.OwnerChecks}
	place := map[*Step]int{}
	edge := func(e Edge) savedEdge { return savedEdge{place[e.Step], e.Index} }
	marshal := proto.MarshalOptions{Deterministic: true}
	for i, step := range g.Steps {
		if source := step.Op.GetSource(); password.MatchString(source.GetIdentifier()) ||
			password.MatchString(source.GetAttrs()[pb.AttrFullRemoteURL]) {
			return s, errors.New("a URL contains a password")
		}
		saved := savedStep{
			Digest: step.Digest, Name: step.Name, Own: step.Own, Source: step.Source, Targets: step.Targets,
			NoCache: step.NoCache,
		}
		var err error
		if saved.Op, err = marshal.Marshal(step.Op); err != nil {
			return s, err
		}
		if step.Resources != nil {
			if saved.Resources, err = marshal.Marshal(step.Resources); err != nil {
				return s, err
			}
			if len(saved.Resources) == 0 {
				return s, errors.New("empty resource limits would be lost")
			}
		}
		if step.Test != nil {
			if saved.Test, err = json.Marshal(step.Test); err != nil {
				return s, err
			}
		}
		for _, in := range step.Inputs {
			saved.Inputs = append(saved.Inputs, edge(in))
		}
		s.Steps = append(s.Steps, saved)
		place[step] = i + 1
	}
	for _, m := range g.Images {
		saved := savedImage{m.Target, m.Platform, m.MultiPlatform, edge(m.Root), m.Config, m.Base, m.Epoch, nil}
		for _, t := range m.Tests {
			saved.Tests = append(saved.Tests, place[t])
		}
		s.Images = append(s.Images, saved)
	}
	return s, nil
}

// graph returns the stored graph completed with what the project provides.
func (s *savedGraph) graph(project *config.Project, bases []BaseUse) (*Graph, error) {
	g := &Graph{
		Steps: make([]*Step, len(s.Steps)), Locals: s.Locals, Layouts: s.Layouts, Secrets: map[string][]config.Secret{},
		SSH:   map[string][]config.SSH{},
		Bases: bases, Declared: s.Declared, Warnings: s.Warnings, OwnerChecks: s.OwnerChecks,
	}
	if g.OwnerChecks == nil { // gob leaves out an empty map
		g.OwnerChecks = map[string]OwnerCheck{}
	}
	for i, saved := range s.Steps {
		step, err := saved.step(g.Steps[:i])
		if err != nil {
			return nil, err
		}
		g.Steps[i] = step
	}
	for _, m := range s.Images {
		t := project.Targets[m.Target]
		root, err := m.Root.edge(g.Steps)
		if t == nil || err != nil {
			return nil, fmt.Errorf("the image of target %s: %w", m.Target, errMemo)
		}
		image := &Image{
			Target: m.Target, Platform: m.Platform, MultiPlatform: m.MultiPlatform, Root: root, Config: m.Config,
			Base: m.Base, Epoch: m.Epoch,
			Tags: t.Tags, Annotations: t.Annotations, Outputs: t.Outputs,
		}
		for _, number := range m.Tests {
			test, err := savedEdge{Step: number}.edge(g.Steps)
			if err != nil || test.Step == nil {
				return nil, fmt.Errorf("the tests of target %s: %w", m.Target, errMemo)
			}
			image.Tests = append(image.Tests, test.Step)
		}
		g.Images = append(g.Images, image)
	}
	for _, name := range s.Targets {
		t := project.Targets[name]
		if t == nil {
			return nil, fmt.Errorf("target %s: %w", name, errMemo)
		}
		g.addSecrets(t)
	}
	g.Locals, g.Layouts = notNil(g.Locals), notNil(g.Layouts)
	return g, nil
}

// errMemo reports that a stored plan is inconsistent.
var errMemo = errors.New("the stored plan is damaged")

func (s savedStep) step(before []*Step) (*Step, error) {
	step := &Step{
		Digest: s.Digest, Op: &pb.Op{}, Inputs: make([]Edge, len(s.Inputs)), Name: s.Name, Own: s.Own, Source: s.Source,
		Targets: s.Targets, NoCache: s.NoCache,
	}
	if err := step.Op.UnmarshalVT(s.Op); err != nil {
		return nil, err
	}
	if len(s.Resources) > 0 {
		step.Resources = &pb.LinuxResources{}
		if err := step.Resources.UnmarshalVT(s.Resources); err != nil {
			return nil, err
		}
	}
	if len(s.Test) > 0 {
		step.Test = &Test{}
		if err := json.Unmarshal(s.Test, step.Test); err != nil {
			return nil, err
		}
	}
	for i, in := range s.Inputs {
		var err error
		if step.Inputs[i], err = in.edge(before); err != nil {
			return nil, err
		}
	}
	return step, nil
}

func (e savedEdge) edge(steps []*Step) (Edge, error) {
	if e.Step < 0 || e.Step > len(steps) {
		return Edge{}, errMemo
	}
	if e.Step == 0 {
		return Edge{Index: e.Index}, nil
	}
	return Edge{steps[e.Step-1], e.Index}, nil
}

func notNil(m map[string]Local) map[string]Local {
	if m == nil {
		return map[string]Local{}
	}
	return m
}

func (m *memo) encode() ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(m)
	return b.Bytes(), err
}

func decodeMemo(raw []byte) (*memo, error) {
	m := &memo{}
	return m, gob.NewDecoder(bytes.NewReader(raw)).Decode(m)
}
