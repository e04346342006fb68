package attest

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/purl"
	"github.com/moby/buildkit/util/urlutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/bakebuild/bake/planner"
)

// materials holds the materials that the steps of an image read, and the request: the content of BuildKit's Capture
// type. Importing that type would link BuildKit's whole solver.
type materials struct {
	platform   ocispecs.Platform
	config     types.ProvenanceConfigSourceSLSA1
	request    types.Parameters
	version    string // of the frontend
	list       []material
	network    bool
	incomplete bool // a material has no digest
}

// material is one thing that was read, with its digest.
type material struct{ uri, algorithm, hex string }

// collect lists the materials of the steps. The Dockerfile counts as a file of a local directory, wherever it comes
// from, so the materials are never complete.
func (p provenance) collect(ctx context.Context) *materials {
	requested := p.source.Image.Provenance
	c := &materials{platform: p.source.Image.Platform, config: types.ProvenanceConfigSourceSLSA1{
		URI: urlutil.RedactCredentials(requested.Args["context"]), Path: requested.Args["filename"],
	}}
	c.version = requested.Version
	c.request.Frontend, c.request.Args = requested.Frontend, publicArgs(requested.Args)
	c.local("dockerfile")
	for _, s := range p.steps {
		switch {
		case s.Op.GetSource() != nil:
			p.addSource(ctx, c, s)
		case s.Op.GetExec() != nil:
			addExec(c, s.Op.GetExec())
		case s.Op.GetBuild() != nil:
			c.incomplete = true
		}
	}
	for _, s := range p.scanner { // the scanner image is a material too
		if strings.HasPrefix(s.Op.GetSource().GetIdentifier(), "docker-image://") {
			p.addSource(ctx, c, s)
		}
	}
	c.sort()
	return c
}

// addSource adds the material of a source step. A source without a valid digest makes the materials incomplete. The
// planner resolves images, so they have one.
func (p provenance) addSource(ctx context.Context, c *materials, s *planner.Step) {
	source := s.Op.GetSource()
	scheme, rest, _ := strings.Cut(source.GetIdentifier(), "://")
	switch scheme {
	case "local":
		name := p.source.Image.Provenance.Locals[rest]
		if name == "" {
			name = rest // of a linked target
		}
		c.local(name)
	case "docker-image", "oci-layout":
		name, text, _ := strings.Cut(rest, "@")
		d := digest.Digest(text)
		kind := packageurl.TypeDocker
		if scheme != "docker-image" {
			kind = packageurl.TypeOCI
		}
		var platform *ocispecs.Platform
		if of := s.Op.GetPlatform(); of != nil {
			platform = &ocispecs.Platform{
				OS: of.OS, Architecture: of.Architecture, Variant: of.Variant, OSVersion: of.OSVersion,
			}
		}
		url, err := purl.RefToPURL(kind, name, platform)
		if err != nil || d.Validate() != nil {
			c.incomplete = true
			return
		}
		c.add(url, d.Algorithm().String(), d.Encoded())
	case "git":
		url := source.GetAttrs()[pb.AttrFullRemoteURL]
		if url == "" {
			url = rest
		}
		if _, fragment, ok := strings.Cut(rest, "#"); ok && !strings.Contains(url, "#") {
			fragment, _, _ = strings.Cut(fragment, ":")
			url += "#" + fragment
		}
		if commit := p.resolved(ctx, s); commit != "" {
			algorithm := "sha1"
			if len(commit) == 64 {
				algorithm = "sha256"
			}
			c.add(urlutil.RedactCredentials(url), algorithm, commit)
			return
		}
		c.incomplete = true
	case "http", "https":
		if d := digest.Digest(p.resolved(ctx, s)); d.Validate() == nil {
			c.add(urlutil.RedactCredentials(source.GetIdentifier()), d.Algorithm().String(), d.Encoded())
			return
		}
		c.incomplete = true
	default:
		c.incomplete = true
	}
}

// resolved returns the commit of a git source or the digest of an http source, as the engine reports it. For an http
// source that the engine does not know it returns the checksum in the graph, if there is one.
func (p provenance) resolved(ctx context.Context, s *planner.Step) string {
	if p.source.Resolved != nil {
		if found := p.source.Resolved(ctx, s); found != "" {
			return found
		}
	}
	return s.Op.GetSource().GetAttrs()[pb.AttrHTTPChecksum]
}

// addExec adds the secrets, SSH agents and network access of a command.
func addExec(c *materials, exec *pb.ExecOp) {
	for _, m := range exec.GetMounts() {
		switch m.GetMountType() {
		case pb.MountType_SECRET:
			c.secret(m.GetSecretOpt().GetID(), m.GetSecretOpt().GetOptional())
		case pb.MountType_SSH:
			c.ssh(m.GetSSHOpt().GetID(), m.GetSSHOpt().GetOptional())
		}
	}
	for _, e := range exec.GetSecretenv() {
		c.secret(e.GetID(), e.GetOptional())
	}
	c.network = c.network || exec.GetNetwork() != pb.NetMode_NONE
}

// publicArgs returns the options of a request without those that describe this machine. Passwords are removed from
// the URLs of named contexts only; build arguments stay as they are, see removeSecrets.
func publicArgs(args map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range args {
		switch {
		case k == "cgroup-parent", k == "image-resolve-mode", k == "platform", k == "cache-imports",
			k == "context", k == "filename", k == "dockerfilekey":
		case strings.HasPrefix(k, "attest:"):
		case strings.HasPrefix(k, "context:"):
			out[k] = redact(urlutil.RedactCredentials(v))
		default:
			out[k] = v
		}
	}
	return out
}

// password matches the user and password of a URL. The URL need not be at the beginning: the planner names the files of
// a URL local://URL.
var password = regexp.MustCompile(`((?:https?|git)://)[^/\s@:]*:[^/\s@]+@`)

// redact replaces the user and password of each URL in a text. A user without a password stays.
func redact(s string) string { return password.ReplaceAllString(s, "${1}xxxxx:xxxxx@") }

// add adds a material unless one with its URI is there.
func (c *materials) add(uri, algorithm, hex string) {
	if !slices.ContainsFunc(c.list, func(m material) bool { return m.uri == uri }) {
		c.list = append(c.list, material{uri, algorithm, hex})
	}
}

// local notes a directory of this machine, which has no digest.
func (c *materials) local(name string) {
	c.incomplete = true
	name = redact(name)
	if !slices.ContainsFunc(c.request.Locals, func(l *types.LocalSource) bool { return l.Name == name }) {
		c.request.Locals = append(c.request.Locals, &types.LocalSource{Name: name})
	}
}

// secret notes a secret that a step may read. It is optional only if it is optional for every step.
func (c *materials) secret(id string, optional bool) {
	for _, s := range c.request.Secrets {
		if s.ID == id {
			s.Optional = s.Optional && optional
			return
		}
	}
	c.request.Secrets = append(c.request.Secrets, &types.Secret{ID: id, Optional: optional})
}

// ssh notes an SSH agent in the same way.
func (c *materials) ssh(id string, optional bool) {
	id = cmp.Or(id, "default")
	for _, s := range c.request.SSH {
		if s.ID == id {
			s.Optional = s.Optional && optional
			return
		}
	}
	c.request.SSH = append(c.request.SSH, &types.SSH{ID: id, Optional: optional})
}

// sort makes the lists independent of the order of the steps. Provenance still differs in every build: it has an
// invocation id and times.
func (c *materials) sort() {
	slices.SortFunc(c.list, func(a, b material) int { return cmp.Compare(a.uri, b.uri) })
	slices.SortFunc(c.request.Locals, func(a, b *types.LocalSource) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.request.Secrets, func(a, b *types.Secret) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.request.SSH, func(a, b *types.SSH) int { return cmp.Compare(a.ID, b.ID) })
}

// predicate returns the part of the provenance that depends on the request and the steps alone. The materials are set
// field by field: their type, part of BuildKit's, is marked deprecated by in-toto and is not named here.
func (c *materials) predicate() *types.ProvenancePredicateSLSA1 {
	if len(c.request.Args) == 0 {
		c.request.Args = nil
	}
	out := &types.ProvenancePredicateSLSA1{
		BuildDefinition: types.ProvenanceBuildDefinitionSLSA1{
			ExternalParameters: types.ProvenanceExternalParametersSLSA1{ConfigSource: c.config, Request: c.request},
			InternalParameters: types.ProvenanceInternalParametersSLSA1{
				BuilderPlatform: platforms.Format(platforms.Normalize(platforms.DefaultSpec())),
				TargetPlatform:  platforms.FormatAll(c.platform), DockerfileVersion: c.version,
			},
		},
		RunDetails: types.ProvenanceRunDetailsSLSA1{Metadata: &types.ProvenanceMetadataSLSA1{
			Completeness: types.BuildKitComplete{
				Request: c.request.Frontend != "", ResolvedDependencies: !c.incomplete,
			},
			Hermetic: !c.incomplete && !c.network,
		}},
	}
	out.BuildDefinition.BuildType = types.BuildKitBuildType1
	list := slices.Grow(out.BuildDefinition.ResolvedDependencies, len(c.list))[:len(c.list)]
	for i, m := range c.list {
		list[i].URI, list[i].Digest = m.uri, map[string]string{m.algorithm: m.hex}
	}
	out.BuildDefinition.ResolvedDependencies = list
	return out
}
