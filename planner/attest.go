package planner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/attestations/sbom"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// frontend is the name of the Dockerfile frontend in BuildKit's requests.
const frontend = "dockerfile.v0"

// Provenance holds the facts for a provenance attestation: how an image is built.
type Provenance struct {
	Attrs    map[string]string // of the attestation, such as mode, version, builder-id and reproducible
	Frontend string
	Version  string            // of the frontend
	Args     map[string]string // options of the frontend's request
	// Locals maps the names of build contexts in the graph to the frontend's names.
	Locals map[string]string
	// File is the Dockerfile's name, as in the locations of steps. Dockerfile is its content.
	File       string
	Dockerfile []byte
}

// attestations returns the attributes of a target's attestations by type, without type and disabled. The last one of a
// type takes precedence. A disabled attestation is left out.
func (p *plan) attestations(t *config.Target) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, a := range t.Attest {
		kind := a["type"]
		if kind != "sbom" && kind != "provenance" {
			return nil, p.targetError(t, "attest", fmt.Errorf("unknown attestation type %q; use sbom or provenance",
				kind))
		}
		attrs := maps.Clone(map[string]string(a))
		disabled := attrs["disabled"]
		delete(attrs, "type")
		delete(attrs, "disabled")
		all[kind] = attrs
		if disabled == "true" || disabled == "1" {
			delete(all, kind)
		}
	}
	return all, nil
}

// attestOptions adds the attestations to the frontend's options, each encoded as a CSV record of KEY=VALUE fields.
func attestOptions(attests map[string]map[string]string, opts map[string]string) {
	for kind, attrs := range attests {
		var fields []string
		for _, k := range slices.Sorted(maps.Keys(attrs)) {
			field := k + "=" + attrs[k]
			if strings.ContainsAny(field, "\",\n") {
				field = `"` + strings.ReplaceAll(field, `"`, `""`) + `"`
			}
			fields = append(fields, field)
		}
		opts["attest:"+kind] = strings.Join(fields, ",")
	}
}

// provenance returns the facts for a provenance attestation, or nil if none is requested.
func (f *frontEnd) provenance() *Provenance {
	attrs, ok := f.attests["provenance"]
	if !ok {
		return nil
	}
	out := &Provenance{
		Attrs: attrs, Frontend: frontend, Version: version.Version(), Args: maps.Clone(f.in.client.opts.Opts),
		Locals: map[string]string{}, File: f.file.display, Dockerfile: f.file.data,
	}
	out.Args["filename"] = f.file.name
	for name, dir := range f.in.locals {
		name = strings.TrimPrefix(name, namedContextID)
		if known := out.Locals[dir.name]; known == "" || name == mainContext {
			out.Locals[dir.name] = name
		}
	}
	return out
}

// scanner returns the function that adds a step which writes the SBOM of an image, or nil if none is requested.
func (p *plan) scanner(ctx context.Context, f *frontEnd) (sbom.Scanner, error) {
	if f.opt.Config.SBOM == nil {
		return nil, nil
	}
	platform := p.opts.Platform
	scan, err := sbom.CreateSBOMScanner(ctx, scannerResolver{f.in.client}, f.opt.Config.SBOM.Generator, platform,
		sourceresolver.Opt{
			ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform},
		}, f.opt.Config.SBOM.Parameters)
	if err != nil {
		return nil, fmt.Errorf("SBOM scanner: %w", err)
	}
	return scan, nil
}

// scan adds the scanner's step for one platform to the result.
func (r *result) scan(
	ctx context.Context, scan sbom.Scanner, res *dockerfile2llb.Result, platform ocispecs.Platform, in *inputs,
) error {
	var opts []llb.ConstraintsOpt
	if res.IsIgnoreCache {
		opts = append(opts, llb.IgnoreCache)
	}
	attestation, err := scan(ctx, platforms.FormatAll(platform), res.SBOM.Core, res.SBOM.Extras, opts...)
	if err != nil {
		return err
	}
	def, err := attestation.Ref.Marshal(ctx)
	if err != nil {
		return err
	}
	sbomResult, err := canonical(def, in)
	if err != nil {
		return err
	}
	for _, n := range sbomResult.own {
		if r.all[n.digest] == nil {
			r.all[n.digest] = n
			r.own = append(r.own, n)
		}
	}
	r.sbom = &sbomResult.root
	return nil
}

// scannerResolver resolves a scanner's image like a base image, so that the lock pins it.
type scannerResolver struct{ client *client }

// ResolveSourceMetadata implements sourceresolver.MetaResolver.
func (r scannerResolver) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp,
	opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	const scheme = "docker-image://"
	ref, d, raw, err := r.client.ResolveImageConfig(ctx, strings.TrimPrefix(op.Identifier, scheme), opt)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{
		Op:    &pb.SourceOp{Identifier: scheme + ref, Attrs: op.Attrs},
		Image: &sourceresolver.ResolveImageResponse{Digest: d, Config: raw},
	}, nil
}
