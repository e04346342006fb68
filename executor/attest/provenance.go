package attest

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
	complete     bool   // incomplete materials are an error; they are always incomplete, see provenance.collect
	file         string // name of the document among the files of an image
	inline       bool   // the document is for images only
}

// parseProvenance reads the attributes. It refuses those that would not be honoured.
func parseProvenance(attrs map[string]string) (provenanceOptions, error) {
	o := provenanceOptions{max: true, version: types.ProvenanceSLSA1, file: "provenance.json"}
	for k, v := range attrs {
		var err error
		switch k {
		case "mode":
			if o.max = v == "max" || v == "full"; !o.max && v != "min" {
				err = errors.New("expected min or max")
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
				err = errors.New("expected a file name")
			}
		case "capture-usage":
			if used, parseErr := strconv.ParseBool(v); parseErr != nil || used {
				err = errors.New("resource usage of steps is not recorded; remove the attribute")
			}
		default:
			err = errors.New("unknown attribute")
		}
		if err != nil {
			return o, fmt.Errorf("attest type=provenance: %s=%s: %w", k, v, err)
		}
	}
	return o, nil
}

// predicateType returns the type URI of the statement's predicate.
func (o provenanceOptions) predicateType() string {
	if o.version == types.ProvenanceSLSA02 {
		return slsa02.PredicateSLSAProvenance
	}
	return slsa1.PredicateSLSAProvenance
}

// provenance is what the provenance of one image is computed from.
type provenance struct {
	source     Source
	steps      []*planner.Step // of the image, inputs before users
	scanner    []*planner.Step // of its SBOM
	started    time.Time
	invocation string
}

// predicate returns the provenance of an image with these layers.
func (p provenance) predicate(
	ctx context.Context, o provenanceOptions, layers []ocispecs.Descriptor,
) (json.RawMessage, error) {
	image := p.source.Image
	out := p.collect(ctx).predicate()
	meta := out.RunDetails.Metadata
	if o.complete && !meta.Completeness.ResolvedDependencies {
		return nil, errors.New("attest type=provenance: complete-materials=true: some materials have no digest, " +
			"such as the Dockerfile and files of a local directory; remove complete-materials")
	}
	finished := time.Now().UTC()
	started := p.started.UTC()
	meta.StartedOn, meta.FinishedOn, meta.InvocationID = &started, &finished, p.invocation
	meta.Reproducible = o.reproducible
	out.RunDetails.Builder.ID = o.builder
	if o.max {
		p.addSteps(out, image, layers)
	} else {
		removeSecrets(out)
	}
	if o.version == types.ProvenanceSLSA02 {
		return withClaimed(out.ConvertToSLSA02(), p.claimed(o.max), "metadata")
	}
	return withClaimed(out, p.claimed(o.max), "runDetails", "metadata")
}

// removeSecrets removes what mode=min must not reveal: build arguments, labels, and the ids of secrets and SSH agents.
func removeSecrets(p *types.ProvenancePredicateSLSA1) {
	request := &p.BuildDefinition.ExternalParameters.Request
	for k := range request.Args {
		if strings.HasPrefix(k, "build-arg:") || strings.HasPrefix(k, "label:") {
			delete(request.Args, k)
			p.RunDetails.Metadata.Completeness.Request = false
		}
	}
	request.Secrets, request.SSH = nil, nil
}

// addSteps adds what only mode=max has: all steps, the Dockerfile with the lines of each step, and the layers.
func (p provenance) addSteps(out *types.ProvenancePredicateSLSA1, image *planner.Image, layers []ocispecs.Descriptor) {
	requested := image.Provenance
	config := &types.BuildConfig{DigestMapping: map[digest.Digest]string{}}
	source := &types.Source{
		Locations: map[string]*pb.Locations{},
		Infos:     []types.SourceInfo{{Filename: requested.File, Language: "Dockerfile", Data: requested.Dockerfile}},
	}
	ids := map[*planner.Step]string{}
	for i, s := range p.steps {
		id := fmt.Sprintf("step%d", i)
		ids[s] = id
		config.DigestMapping[s.Digest] = id
		op := s.Op.CloneVT()
		op.Inputs = nil
		redactSource(op.GetSource())
		step := types.BuildStep{ID: id, Op: op}
		for _, in := range s.Inputs {
			step.Inputs = append(step.Inputs, fmt.Sprintf("%s:%d", ids[in.Step], in.Index))
		}
		config.Definition = append(config.Definition, step)
		if at := locations(s, requested.File); at != nil {
			source.Locations[id] = at
		}
	}
	if root := image.Root; root.Step != nil { // as BuildKit ends each definition
		id := fmt.Sprintf("step%d", len(p.steps))
		config.Definition = append(config.Definition, types.BuildStep{
			ID: id, Op: &pb.Op{}, Inputs: []string{fmt.Sprintf("%s:%d", ids[root.Step], root.Index)},
		})
		if layers != nil {
			out.RunDetails.Metadata.BuildKitMetadata.Layers = map[string][][]ocispecs.Descriptor{
				fmt.Sprintf("%s:%d", ids[root.Step], root.Index): {layers},
			}
		}
	}
	out.BuildDefinition.InternalParameters.BuildConfig = config
	out.RunDetails.Metadata.BuildKitMetadata.Source = source
}

// redactSource removes passwords from the URLs of a source (CVE-2023-26054). Other ops are recorded unchanged.
func redactSource(source *pb.SourceOp) {
	if source == nil {
		return
	}
	source.Identifier = redact(source.Identifier)
	if url := source.Attrs[pb.AttrFullRemoteURL]; url != "" {
		source.Attrs[pb.AttrFullRemoteURL] = urlutil.RedactCredentials(url)
	}
}

// locations returns the lines of a step in one file, nil for none.
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

// stepsOf lists the steps that an edge depends on, inputs before users.
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
