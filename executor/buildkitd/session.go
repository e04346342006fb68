package buildkitd

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// exportStore is the name under which BuildKit's exporter looks for a place to put images.
const exportStore = "export"

// offers are the secrets and ssh agents of all targets. Where two targets give one id to different things, the steps
// ask for them by the target's name and the id.
type offers struct {
	graph   *planner.Graph
	secrets map[string]config.Secret
	ssh     map[string]config.SSH
}

func newOffers(g *planner.Graph) *offers {
	return &offers{graph: g, secrets: map[string]config.Secret{}, ssh: map[string]config.SSH{}}
}

// rename makes the ids that a step asks for those under which its targets offer them.
func (o *offers) rename(s *planner.Step, exec *pb.ExecOp) {
	for _, m := range exec.Mounts {
		if opt := m.SecretOpt; opt != nil {
			opt.ID = o.secret(s, opt.ID)
		}
		if opt := m.SSHOpt; opt != nil {
			opt.ID = o.agent(s, opt.ID)
		}
	}
	for _, env := range exec.Secretenv {
		env.ID = o.secret(s, env.ID)
	}
}

// secret is the id of a secret that a step wants, and offers it.
func (o *offers) secret(s *planner.Step, id string) string {
	for _, target := range s.Targets {
		for _, secret := range o.graph.Secrets[target] {
			if secret.ID != id {
				continue
			}
			as := id
			if was, ok := o.secrets[id]; ok && was != secret {
				as = target + "/" + id
			}
			o.secrets[as] = secret
			return as
		}
	}
	return notOffered(s, id)
}

// notOffered is an id under which no target offers anything: what one target offers is not for the steps of others.
func notOffered(s *planner.Step, id string) string {
	if len(s.Targets) == 0 {
		return "/" + id
	}
	return s.Targets[0] + "//" + id
}

// agent is the id of an ssh agent that a step wants, and offers it.
func (o *offers) agent(s *planner.Step, id string) string {
	if id == "" {
		id = "default"
	}
	for _, target := range s.Targets {
		for _, agent := range o.graph.SSH[target] {
			if agent.ID != id {
				continue
			}
			as := id
			if was, ok := o.ssh[id]; ok && !slices.Equal(was.Paths, agent.Paths) {
				as = target + "/" + id
			}
			o.ssh[as] = agent
			return as
		}
	}
	return notOffered(s, id)
}

// GetSecret implements BuildKit's store of secrets.
func (o *offers) GetSecret(_ context.Context, id string) ([]byte, error) {
	secret, ok := o.secrets[id]
	if !ok {
		return nil, fmt.Errorf("%w: no secret %q is given", secrets.ErrNotFound, id)
	}
	value, err := executor.ReadSecret(secret)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	return value, nil
}

// agents is what serves the ssh agents; nil when there are none.
func (o *offers) agents() (session.Attachable, error) {
	if len(o.ssh) == 0 {
		return nil, nil
	}
	var list []sshprovider.AgentConfig
	for id, agent := range o.ssh {
		list = append(list, sshprovider.AgentConfig{ID: id, Paths: agent.Paths})
	}
	return sshprovider.NewSSHAgentProvider(list)
}

// files takes the one file that a daemon sends at a time.
type files struct {
	turn sync.Mutex // held by who waits for a file
	to   io.Writer
}

// open is where the daemon's file goes.
func (f *files) open(map[string]string) (io.WriteCloser, error) {
	if f.to == nil {
		return nil, fmt.Errorf("nobody asked for a file")
	}
	return nopCloser{f.to}, nil
}

type nopCloser struct{ io.Writer }

// Close does nothing: who asked for the file closes it.
func (nopCloser) Close() error { return nil }

// attach lets the session serve all that the graph's steps read from this machine, and take what comes back.
func (b *builder) attach(s *session.Session, r *run, o *offers) error {
	dirs := filesync.StaticDirSource{}
	for name, local := range r.graph.Locals {
		dir, err := openDir(local.Dir)
		if err != nil {
			return fmt.Errorf("build context %s: %w", name, err)
		}
		dirs[name] = dir
	}
	stores := map[string]content.Store{exportStore: &blobStore{blobs: r.engine.opts.Blobs}}
	for name, layout := range r.graph.Layouts {
		store, err := contentlocal.NewStore(layout.Dir)
		if err != nil {
			return fmt.Errorf("image layout %s: %w", name, err)
		}
		stores["oci:"+name] = store
	}
	agents, err := o.agents()
	if err != nil {
		return fmt.Errorf("ssh agents: %w", err)
	}
	s.Allow(filesync.NewFSSyncProvider(dirs))
	s.Allow(filesync.NewFSSyncTarget(filesync.WithFSSync(0, b.files.open)))
	s.Allow(sessioncontent.NewAttachable(stores))
	s.Allow(secretsprovider.NewSecretProvider(o))
	s.Allow(authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: credentials(r.engine.opts.Keychain),
	}))
	if agents != nil {
		s.Allow(agents)
	}
	return nil
}

// openDir is a build context as daemons see it: all files belong to root.
func openDir(dir string) (fsutil.FS, error) {
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, err
	}
	return fsutil.NewFilterFS(files, &fsutil.FilterOpt{Map: func(_ string, st *fstypes.Stat) fsutil.MapResult {
		st.Uid, st.Gid = 0, 0
		return fsutil.MapResultKeep
	}})
}

// credentials answers a daemon that asks for what a registry wants, as the client for registries would.
func credentials(keys authn.Keychain) authprovider.AuthConfigProvider {
	return func(ctx context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		if host == authprovider.DockerHubRegistryHost {
			host = name.DefaultRegistry
		}
		registry, err := name.NewRegistry(host, name.WeakValidation)
		if err != nil {
			return types.AuthConfig{}, err
		}
		auth, err := authn.Resolve(ctx, keys, registry)
		if err != nil {
			return types.AuthConfig{}, fmt.Errorf("credentials for %s: %w", host, err)
		}
		c, err := authn.Authorization(ctx, auth)
		if err != nil {
			return types.AuthConfig{}, fmt.Errorf("credentials for %s: %w", host, err)
		}
		return types.AuthConfig{
			Username: c.Username, Password: c.Password, Auth: c.Auth, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
			ServerAddress: host,
		}, nil
	}
}

// entitlements are those of the granted permissions that concern a daemon.
func entitlements(allow []string) []string {
	var list []string
	for _, a := range allow {
		if a == "network.host" || a == "security.insecure" || a == "device" || strings.HasPrefix(a, "device=") {
			list = append(list, a)
		}
	}
	return list
}
