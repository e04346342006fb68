package planner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// planTarget runs the frontend for each platform of a target and sets the fields of d.
func (p *plan) planTarget(ctx context.Context, d *planned) (err error) {
	t := d.target
	defer func() {
		if e := err; e != nil && !isLocated(e) {
			err = &DockerfileError{Target: t.Name, Err: e}
		}
	}()
	defer recoverTo(&err)
	want, err := p.platformsOf(t)
	if err != nil {
		return err
	}
	f, err := p.frontEnd(ctx, t, want)
	if err != nil {
		return err
	}
	d.locals, d.layouts = f.in.locals, f.in.layouts
	d.warnOfArgs(t)
	d.several = f.opt.MultiPlatformRequested
	d.file, d.ownerCheck = f.file.display, f.ownerCheck()
	err = p.convert(ctx, d, f, want)
	if fetchErr := f.in.addFetched(); fetchErr != nil {
		return fetchErr
	}
	if err != nil {
		if isLocated(err) {
			return err
		}
		return f.file.frontEndError(t.Name, err)
	}
	sortWarnings(d.warnings)
	return nil
}

// isLocated reports whether an error already names its target and location.
func isLocated(err error) bool {
	var dockerfile *DockerfileError
	var base *BaseError
	var link *linkError
	return errors.As(err, &dockerfile) || errors.As(err, &base) || errors.As(err, &link)
}

func (p *plan) newInputs(t *config.Target, want []ocispecs.Platform) (*inputs, error) {
	var ids []string
	for _, w := range want {
		ids = append(ids, platforms.FormatAll(w))
	}
	opts, err := p.frontEndOptions(t, strings.Join(ids, ","))
	if err != nil {
		return nil, err
	}
	in := &inputs{
		client: &client{
			opts: gwclient.BuildOpts{
				Opts:      opts,
				SessionID: session,
				Workers:   []gwclient.WorkerInfo{{Platforms: []ocispecs.Platform{p.opts.Platform}}},
				LLBCaps:   p.llbCaps,
				Caps:      p.gwCaps,
			},
			inputs:  map[string]llb.State{},
			files:   map[string]fileSet{},
			remotes: map[string]*remoteDir{},
			bases:   &p.bases,
			target:  t.Name,
			links:   map[string]string{},
			layouts: map[string]*layout{},
		},
		aliases: map[string][]string{},
		locals:  map[string]localDir{},
		layouts: map[string]localDir{},
	}
	in.client.locals = in.locals
	if !p.isSource() {
		in.client.sourceTime = func(op *pb.SourceOp) (time.Time, error) { return p.sourceTime(t, op) }
	}
	return in, nil
}

// frontEnd is the Dockerfile frontend, set up for one target.
type frontEnd struct {
	in      *inputs
	file    dockerfile
	opt     dockerfile2llb.ConvertOpt
	attests map[string]map[string]string // attributes by type
}

func (p *plan) frontEnd(ctx context.Context, t *config.Target, want []ocispecs.Platform) (*frontEnd, error) {
	in, err := p.newInputs(t, want)
	if err != nil {
		return nil, err
	}
	attests, err := p.attestations(t)
	if err != nil {
		return nil, err
	}
	attestOptions(attests, in.client.opts.Opts)
	file, err := p.addMain(t, in)
	if err != nil {
		return nil, err
	}
	p.addBases(in)
	if err := p.addContexts(t, in); err != nil {
		return nil, err
	}
	bc, err := dockerui.NewClient(in.client)
	if err == nil && file.ignore != nil {
		_, err = bc.ReadEntrypoint(ctx, "Dockerfile") // the only call that reads DOCKERFILE.dockerignore
	}
	if err != nil {
		return nil, file.frontEndError(t.Name, err)
	}
	return &frontEnd{attests: attests, in: in, file: file, opt: dockerfile2llb.ConvertOpt{
		Config:       bc.Config,
		Client:       bc,
		SourceMap:    llb.NewSourceMap(nil, file.display, "Dockerfile", file.data),
		MetaResolver: in.client,
	}}, nil
}

// lastYear is the last year that RFC 3339 can represent.
const lastYear = 9999

// convert runs the frontend for each platform and converts its definitions to the canonical form.
func (p *plan) convert(ctx context.Context, d *planned, f *frontEnd, want []ocispecs.Platform) error {
	opt := f.opt
	opt.Warn = d.warn(f.file)
	scan, err := p.scanner(ctx, f)
	if err != nil {
		return err
	}
	for i, platform := range want {
		opt.BuildArgs = maps.Clone(f.opt.BuildArgs)
		opt.TargetPlatform = &platform
		if i > 0 {
			opt.Warn = nil
		}
		res, err := dockerfile2llb.Dockerfile2LLB(ctx, f.file.data, opt)
		if err != nil {
			return err
		}
		if err := f.in.addFetched(); err != nil {
			return err
		}
		def, err := res.State.Marshal(ctx)
		if err != nil {
			return err
		}
		r, err := canonical(def, f.in)
		if err != nil {
			return err
		}
		for _, n := range r.own {
			for k := range n.at {
				n.at[k] = f.file.lines.location(n.at[k])
			}
		}
		if e := res.Epoch; e != nil && e.Year() > lastYear {
			return fmt.Errorf("SOURCE_DATE_EPOCH %d is after the year %d, the last one that an image config can "+
				"represent",
				e.Unix(), lastYear)
		}
		if r.config, err = json.Marshal(res.Image); err != nil {
			return fmt.Errorf("image config: %w", err)
		}
		if f.file.joint != "" {
			r.config = configWithoutJoints(r.config, f.file.joint)
		}
		if scan != nil {
			if err := r.scan(ctx, scan, res, platform, f.in); err != nil {
				return err
			}
		}
		r.platform, r.epoch, r.provenance = platform, res.Epoch, f.provenance()
		d.results = append(d.results, r)
	}
	return nil
}

// warn returns a function that records the linter's findings in a file.
func (d *planned) warn(file dockerfile) func(rule, description, url, message string, at []parser.Range) {
	return func(rule, description, url, message string, at []parser.Range) {
		d.warnings = append(d.warnings, Warning{
			Target: d.target.Name, Rule: rule, Message: message, Description: description, URL: url,
			Location: file.lines.location(rangesLocation(file.display, at)),
		})
	}
}

func rangesLocation(file string, at []parser.Range) Location {
	l := Location{File: file}
	for _, r := range at {
		if l.Start == 0 || r.Start.Line < l.Start {
			l.Start = r.Start.Line
		}
		l.End = max(l.End, r.End.Line, r.Start.Line)
	}
	return l
}

// sortWarnings sorts warnings, because the linter iterates over maps and reports in a random order.
func sortWarnings(w []Warning) {
	slices.SortStableFunc(w, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Location.Start, b.Location.Start), cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Message, b.Message))
	})
}
