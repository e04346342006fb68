package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	slsa02 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v0.2"
	slsa1 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/urlutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

// provenanceOptions are the attributes of type=provenance.
type provenanceOptions struct {
	max          bool
	version      types.ProvenanceSLSA
	builder      string
	reproducible bool
	complete     bool   // materials that are not known are an error
	file         string // its name beside the files of an image
	inline       bool   // it is for images only
}

// parseProvenance reads the attributes. What could not be kept is refused.
func parseProvenance(attrs map[string]string) (provenanceOptions, error) {
	o := provenanceOptions{max: true, version: types.ProvenanceSLSA1, file: "provenance.json"}
	for k, v := range attrs {
		var err error
		switch k {
		case "mode":
			if o.max = v == "max" || v == "full"; !o.max && v != "min" {
				err = errors.New("want min or max")
			}
		case "version":
			o.version = types.ProvenanceSLSA(v)
			err = o.version.Validate()
		case "builder-id":
			o.builder = v
		case "reproducible":
			o.reproducible, err = strconv.ParseBool(v)
		case "complete-materials":
			o.complete, err = strconv.ParseBool(v)
		case "inline-only":
			o.inline, err = strconv.ParseBool(v)
		case "filename":
			if o.file = path.Base(v); !fs.ValidPath(o.file) || o.file == "." {
				err = errors.New("want the name of a file")
			}
		case "capture-usage":
			if used, parseErr := strconv.ParseBool(v); parseErr != nil || used {
				err = errors.New("the resources that steps use are not recorded: leave it out")
			}
		default:
			err = errors.New("this attribute is unknown")
		}
		if err != nil {
			return o, fmt.Errorf("attest type=provenance: %s=%s: %w", k, v, err)
		}
	}
	return o, nil
}

func (o provenanceOptions) predicateType() string {
	if o.version == types.ProvenanceSLSA02 {
		return slsa02.PredicateSLSAProvenance
	}
	return slsa1.PredicateSLSAProvenance
}

// maker says how an image came to be.
type maker struct {
	built      Built
	steps      []*planner.Step // that made it, inputs before users
	scanned    []*planner.Step // that made its SBOM
	started    time.Time
	invocation string
}

// predicate is the provenance of an image with these layers.
func (m maker) predicate(ctx context.Context, o provenanceOptions, layers []ocispecs.Descriptor) (json.RawMessage, error) {
	image := m.built.Image
	p := m.capture(ctx).predicate()
	meta := p.RunDetails.Metadata
	if o.complete && !meta.Completeness.ResolvedDependencies {
		return nil, errors.New("attest type=provenance: complete-materials=true: not all that the image was made of has a digest, such as files of a local directory: build from a git URL, or leave it out")
	}
	finished := time.Now().UTC()
	started := m.started.UTC()
	meta.StartedOn, meta.FinishedOn, meta.InvocationID, meta.Reproducible = &started, &finished, m.invocation, o.reproducible
	p.RunDetails.Builder.ID = o.builder
	if o.max {
		m.explain(p, image, layers)
	} else {
		scrub(p)
	}
	if o.version == types.ProvenanceSLSA02 {
		return json.MarshalIndent(p.ConvertToSLSA02(), "", "  ")
	}
	return json.MarshalIndent(p, "", "  ")
}

// scrub takes out what mode=min does not tell: it may be secret.
func scrub(p *types.ProvenancePredicateSLSA1) {
	request := &p.BuildDefinition.ExternalParameters.Request
	for k := range request.Args {
		if strings.HasPrefix(k, "build-arg:") || strings.HasPrefix(k, "label:") {
			delete(request.Args, k)
			p.RunDetails.Metadata.Completeness.Request = false
		}
	}
	request.Secrets, request.SSH = nil, nil
}

// explain adds what mode=max tells besides: all steps, the Dockerfile with the lines that they stand in, and the layers.
func (m maker) explain(p *types.ProvenancePredicateSLSA1, image *planner.Image, layers []ocispecs.Descriptor) {
	said := image.Provenance
	config := &types.BuildConfig{DigestMapping: map[digest.Digest]string{}}
	source := &types.Source{
		Locations: map[string]*pb.Locations{},
		Infos:     []types.SourceInfo{{Filename: said.File, Language: "Dockerfile", Data: said.Dockerfile}},
	}
	ids := map[*planner.Step]string{}
	for i, s := range m.steps {
		id := fmt.Sprintf("step%d", i)
		ids[s] = id
		config.DigestMapping[s.Digest] = id
		op := s.Op.CloneVT()
		op.Inputs = nil
		withoutPasswords(op.GetSource())
		step := types.BuildStep{ID: id, Op: op}
		for _, in := range s.Inputs {
			step.Inputs = append(step.Inputs, fmt.Sprintf("%s:%d", ids[in.Step], in.Index))
		}
		config.Definition = append(config.Definition, step)
		if at := locations(s, said.File); at != nil {
			source.Locations[id] = at
		}
	}
	if root := image.Root; root.Step != nil { // as BuildKit ends each definition
		id := fmt.Sprintf("step%d", len(m.steps))
		config.Definition = append(config.Definition, types.BuildStep{
			ID: id, Op: &pb.Op{}, Inputs: []string{fmt.Sprintf("%s:%d", ids[root.Step], root.Index)},
		})
		if layers != nil {
			p.RunDetails.Metadata.BuildKitMetadata.Layers = map[string][][]ocispecs.Descriptor{
				fmt.Sprintf("%s:%d", ids[root.Step], root.Index): {layers},
			}
		}
	}
	p.BuildDefinition.InternalParameters.BuildConfig = config
	p.RunDetails.Metadata.BuildKitMetadata.Source = source
}

// withoutPasswords takes the passwords of URLs out of a source (CVE-2023-26054).
func withoutPasswords(source *pb.SourceOp) {
	if source == nil {
		return
	}
	source.Identifier = withoutPassword(source.Identifier)
	if url := source.Attrs[pb.AttrFullRemoteURL]; url != "" {
		source.Attrs[pb.AttrFullRemoteURL] = urlutil.RedactCredentials(url)
	}
}

func locations(s *planner.Step, file string) *pb.Locations {
	var all []*pb.Location
	for _, l := range s.Source {
		if l.File == file {
			all = append(all, &pb.Location{Ranges: []*pb.Range{{
				Start: &pb.Position{Line: int32(l.Start)}, End: &pb.Position{Line: int32(l.End)},
			}}})
		}
	}
	if all == nil {
		return nil
	}
	return &pb.Locations{Locations: all}
}

// stepsOf lists the steps that an edge stands on, inputs before users.
func stepsOf(e planner.Edge) []*planner.Step {
	var out []*planner.Step
	var walk func(s *planner.Step)
	walk = func(s *planner.Step) {
		if s == nil || slices.Contains(out, s) {
			return
		}
		for _, in := range s.Inputs {
			walk(in.Step)
		}
		out = append(out, s)
	}
	walk(e.Step)
	return out
}
