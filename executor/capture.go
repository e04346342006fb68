package executor

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/common"
	slsa1 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/purl"
	"github.com/moby/buildkit/util/urlutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/bakebuild/bake/planner"
)

// capture is what the steps of an image read: the materials of its provenance, and what was asked for. It says what
// BuildKit's own capture says; that one comes with all of its solver.
type capture struct {
	platform   ocispecs.Platform
	config     types.ProvenanceConfigSourceSLSA1
	request    types.Parameters
	version    string // of the front end
	materials  []slsa1.ResourceDescriptor
	network    bool
	incomplete bool // something that was read has no digest
}

// capture lists what the steps read.
func (m maker) capture(ctx context.Context) *capture {
	said := m.built.Image.Provenance
	c := &capture{platform: m.built.Image.Platform, config: types.ProvenanceConfigSourceSLSA1{
		URI: urlutil.RedactCredentials(said.Args["context"]), Path: said.Args["filename"],
	}}
	c.version = said.Version
	c.request.Frontend, c.request.Args = said.Frontend, tellable(said.Args)
	c.local("dockerfile")
	for _, s := range m.steps {
		switch {
		case s.Op.GetSource() != nil:
			m.source(ctx, c, s)
		case s.Op.GetExec() != nil:
			captureExec(c, s.Op.GetExec())
		case s.Op.GetBuild() != nil:
			c.incomplete = true
		}
	}
	for _, s := range m.scanned { // the scanner itself is a material too
		if strings.HasPrefix(s.Op.GetSource().GetIdentifier(), "docker-image://") {
			m.source(ctx, c, s)
		}
	}
	c.sort()
	return c
}

func (m maker) source(ctx context.Context, c *capture, s *planner.Step) {
	source := s.Op.GetSource()
	scheme, rest, _ := strings.Cut(source.GetIdentifier(), "://")
	switch scheme {
	case "local":
		name := m.built.Image.Provenance.Locals[rest]
		if name == "" {
			name = rest // of a linked target
		}
		c.local(name)
	case "docker-image", "oci-layout":
		name, d, _ := strings.Cut(rest, "@")
		kind := packageurl.TypeDocker
		if scheme != "docker-image" {
			kind = packageurl.TypeOCI
		}
		var platform *ocispecs.Platform
		if p := s.Op.GetPlatform(); p != nil {
			platform = &ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}
		}
		url, err := purl.RefToPURL(kind, name, platform)
		if err != nil {
			c.incomplete = true
			return
		}
		c.material(url, digest.Digest(d).Algorithm().String(), digest.Digest(d).Encoded())
	case "git":
		url := source.GetAttrs()[pb.AttrFullRemoteURL]
		if url == "" {
			url = rest
		}
		if _, fragment, ok := strings.Cut(rest, "#"); ok && !strings.Contains(url, "#") {
			fragment, _, _ = strings.Cut(fragment, ":")
			url += "#" + fragment
		}
		if commit := m.resolved(ctx, s); commit != "" {
			algorithm := "sha1"
			if len(commit) == 64 {
				algorithm = "sha256"
			}
			c.material(urlutil.RedactCredentials(url), algorithm, commit)
			return
		}
		c.incomplete = true
	case "http", "https":
		if d := digest.Digest(m.resolved(ctx, s)); d.Validate() == nil {
			c.material(urlutil.RedactCredentials(source.GetIdentifier()), d.Algorithm().String(), d.Encoded())
			return
		}
		c.incomplete = true
	default:
		c.incomplete = true
	}
}

// resolved is what a git or http source came to: its own checksum, or what the engine found.
func (m maker) resolved(ctx context.Context, s *planner.Step) string {
	if m.built.Resolved != nil {
		if found := m.built.Resolved(ctx, s); found != "" {
			return found
		}
	}
	attrs := s.Op.GetSource().GetAttrs()
	if d := attrs[pb.AttrHTTPChecksum]; d != "" {
		return d
	}
	return ""
}

func captureExec(c *capture, exec *pb.ExecOp) {
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

// tellable are the options of a request without those that are about this machine, and without passwords.
func tellable(args map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range args {
		switch {
		case k == "cgroup-parent", k == "image-resolve-mode", k == "platform", k == "cache-imports", k == "context", k == "filename", k == "dockerfilekey":
		case strings.HasPrefix(k, "attest:"):
		case strings.HasPrefix(k, "context:"):
			out[k] = withoutPassword(urlutil.RedactCredentials(v))
		default:
			out[k] = v
		}
	}
	return out
}

// password is one in a URL, which may stand behind something else: the planner names the files of a URL local://URL.
var password = regexp.MustCompile(`((?:https?|git)://)[^/\s@:]*:[^/\s@]+@`)

func withoutPassword(s string) string { return password.ReplaceAllString(s, "${1}xxxxx:xxxxx@") }

func (c *capture) material(uri, algorithm, hex string) {
	if !slices.ContainsFunc(c.materials, func(m slsa1.ResourceDescriptor) bool { return m.URI == uri }) {
		c.materials = append(c.materials, slsa1.ResourceDescriptor{URI: uri, Digest: common.DigestSet{algorithm: hex}})
	}
}

// local notes a directory of this machine, of which no digest is known.
func (c *capture) local(name string) {
	c.incomplete = true
	name = withoutPassword(name)
	if !slices.ContainsFunc(c.request.Locals, func(l *types.LocalSource) bool { return l.Name == name }) {
		c.request.Locals = append(c.request.Locals, &types.LocalSource{Name: name})
	}
}

// secret notes one that steps may read; it is optional only if it is so for all of them.
func (c *capture) secret(id string, optional bool) {
	for _, s := range c.request.Secrets {
		if s.ID == id {
			s.Optional = s.Optional && optional
			return
		}
	}
	c.request.Secrets = append(c.request.Secrets, &types.Secret{ID: id, Optional: optional})
}

func (c *capture) ssh(id string, optional bool) {
	id = cmp.Or(id, "default")
	for _, s := range c.request.SSH {
		if s.ID == id {
			s.Optional = s.Optional && optional
			return
		}
	}
	c.request.SSH = append(c.request.SSH, &types.SSH{ID: id, Optional: optional})
}

func (c *capture) sort() {
	slices.SortFunc(c.materials, func(a, b slsa1.ResourceDescriptor) int { return cmp.Compare(a.URI, b.URI) })
	slices.SortFunc(c.request.Locals, func(a, b *types.LocalSource) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.request.Secrets, func(a, b *types.Secret) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.request.SSH, func(a, b *types.SSH) int { return cmp.Compare(a.ID, b.ID) })
}

// predicate is the provenance as far as it depends on the request and the steps alone.
func (c *capture) predicate() *types.ProvenancePredicateSLSA1 {
	if len(c.request.Args) == 0 {
		c.request.Args = nil
	}
	return &types.ProvenancePredicateSLSA1{
		BuildDefinition: types.ProvenanceBuildDefinitionSLSA1{
			ProvenanceBuildDefinition: slsa1.ProvenanceBuildDefinition{
				BuildType: types.BuildKitBuildType1, ResolvedDependencies: c.materials,
			},
			ExternalParameters: types.ProvenanceExternalParametersSLSA1{ConfigSource: c.config, Request: c.request},
			InternalParameters: types.ProvenanceInternalParametersSLSA1{
				BuilderPlatform: platforms.Format(platforms.Normalize(platforms.DefaultSpec())),
				TargetPlatform:  platforms.FormatAll(c.platform), DockerfileVersion: c.version,
			},
		},
		RunDetails: types.ProvenanceRunDetailsSLSA1{Metadata: &types.ProvenanceMetadataSLSA1{
			Completeness: types.BuildKitComplete{Request: c.request.Frontend != "", ResolvedDependencies: !c.incomplete},
			Hermetic:     !c.incomplete && !c.network,
		}},
	}
}
