package buildkitd

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

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

// renameSource does the same for a source: the token or header of a repository, for all hosts or one, and its agent.
func (o *offers) renameSource(s *planner.Step, attrs map[string]string) {
	for _, key := range []string{pb.AttrAuthTokenSecret, pb.AttrAuthHeaderSecret, pb.AttrHTTPAuthHeaderSecret} {
		if id := attrs[key]; id != "" {
			attrs[key] = o.hostSecrets(s, id)
		}
	}
	if id, ok := attrs[pb.AttrMountSSHSock]; ok {
		attrs[pb.AttrMountSSHSock] = o.agent(s, id)
	}
}

// hostSecrets offers the secrets ID and ID.HOST. A daemon asks for both, and does without.
func (o *offers) hostSecrets(s *planner.Step, id string) string {
	as := id
	for _, target := range s.Targets {
		for _, secret := range o.graph.Secrets[target] {
			if was, ok := o.secrets[secret.ID]; isFor(secret.ID, id) && ok && was != secret {
				as = target + "/" + id
			}
		}
		found := false
		for _, secret := range o.graph.Secrets[target] {
			if isFor(secret.ID, id) {
				o.secrets[as+strings.TrimPrefix(secret.ID, id)] = secret
				found = true
			}
		}
		if found {
			return as
		}
	}
	return notOffered(s, id)
}

func isFor(secret, id string) bool { return secret == id || strings.HasPrefix(secret, id+".") }

// find is the secret that the first of a step's targets to have one offers under an id.
func (o *offers) find(s *planner.Step, id string) (target string, secret config.Secret, ok bool) {
	for _, target := range s.Targets {
		for _, secret := range o.graph.Secrets[target] {
			if secret.ID == id {
				return target, secret, true
			}
		}
	}
	return "", config.Secret{}, false
}

// secret is the id of a secret that a step wants, and offers it.
func (o *offers) secret(s *planner.Step, id string) string {
	target, secret, ok := o.find(s, id)
	if !ok {
		return notOffered(s, id)
	}
	if was, ok := o.secrets[id]; ok && was != secret {
		id = target + "/" + id
	}
	o.secrets[id] = secret
	return id
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

// secretsOf are the values of the secrets that a step is given, for its output to be free of them.
func (o *offers) secretsOf(s *planner.Step) [][]byte {
	var values [][]byte
	add := func(id string) {
		if _, secret, ok := o.find(s, id); ok {
			if value, err := executor.ReadSecret(secret); err == nil {
				values = append(values, value)
			}
		}
	}
	for _, m := range s.Op.GetExec().GetMounts() {
		if m.SecretOpt != nil {
			add(m.SecretOpt.ID)
		}
	}
	for _, env := range s.Op.GetExec().GetSecretenv() {
		add(env.ID)
	}
	return values
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
	stores := maps.Clone(r.caches.stores)
	stores[exportStore] = b.store
	for name, layout := range r.graph.Layouts {
		stores["oci:"+name] = newLayoutStore(layout.Dir)
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
