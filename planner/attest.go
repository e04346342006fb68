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

// frontend is the name of the Dockerfile front end in BuildKit's requests.
const frontend = "dockerfile.v0"

// Provenance is what is to be said about how an image was made.
type Provenance struct {
	Attrs    map[string]string // of the attestation: mode, version, builder-id, reproducible and the like
	Frontend string
	Version  string            // of the front end
	Args     map[string]string // the request to the front end, in its own words
	// Locals are the front end's names of build contexts, by their names in the graph.
	Locals map[string]string
	// File is the Dockerfile as locations of steps name it, and Dockerfile its content.
	File       string
	Dockerfile []byte
}

// attests are a target's attestations by type, with their other attributes; of several of one type the last counts, and
// one that is disabled is none.
func (p *plan) attests(t *config.Target) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, a := range t.Attest {
		kind := a["type"]
		if kind != "sbom" && kind != "provenance" {
			return nil, p.targetError(t, "attest", fmt.Errorf("type %q is unknown: attestations are of type sbom or provenance", kind))
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

// attestOptions tells the front end of the attestations, in its form.
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

// provenance is nil where none is asked for.
func (f *frontEnd) provenance() *Provenance {
	attrs, ok := f.attests["provenance"]
	if !ok {
		return nil
	}
	out := &Provenance{
		Attrs: attrs, Frontend: frontend, Version: version.Version(), Args: maps.Clone(f.in.client.opts.Opts), Locals: map[string]string{},
		File: f.file.display, Dockerfile: f.file.data,
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

// scanner makes the step that writes the SBOM of an image, nil where none is asked for.
func (p *plan) scanner(ctx context.Context, f *frontEnd) (sbom.Scanner, error) {
	if f.opt.Config.SBOM == nil {
		return nil, nil
	}
	platform := p.opts.Platform
	scan, err := sbom.CreateSBOMScanner(ctx, scannerResolver{f.in.client}, f.opt.Config.SBOM.Generator, platform, sourceresolver.Opt{
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform},
	}, f.opt.Config.SBOM.Parameters)
	if err != nil {
		return nil, fmt.Errorf("SBOM scanner: %w", err)
	}
	return scan, nil
}

// scan adds the scanner's step for one platform to its result.
func (r *result) scan(ctx context.Context, scan sbom.Scanner, res *dockerfile2llb.Result, platform ocispecs.Platform, in *inputs) error {
	var opts []llb.ConstraintsOpt
	if res.IsIgnoreCache {
		opts = append(opts, llb.IgnoreCache)
	}
	made, err := scan(ctx, platforms.FormatAll(platform), res.SBOM.Core, res.SBOM.Extras, opts...)
	if err != nil {
		return err
	}
	def, err := made.Ref.Marshal(ctx)
	if err != nil {
		return err
	}
	more, err := canonical(def, in)
	if err != nil {
		return err
	}
	for _, n := range more.own {
		if r.all[n.digest] == nil {
			r.all[n.digest] = n
			r.own = append(r.own, n)
		}
	}
	r.sbom = &more.root
	return nil
}

// scannerResolver looks a scanner up as bases are, so that a lock pins it.
type scannerResolver struct{ client *client }

// ResolveSourceMetadata implements sourceresolver.MetaResolver.
func (r scannerResolver) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	const scheme = "docker-image://"
	ref, d, raw, err := r.client.ResolveImageConfig(ctx, strings.TrimPrefix(op.Identifier, scheme), opt)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{
		Op: &pb.SourceOp{Identifier: scheme + ref, Attrs: op.Attrs}, Image: &sourceresolver.ResolveImageResponse{Digest: d, Config: raw},
	}, nil
}
