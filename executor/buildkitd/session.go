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

// exportStore is the name of the content store to which BuildKit's exporter sends images.
const exportStore = "export"

// secretSet holds the secrets and SSH agents of all targets that the session serves. Two targets may use one id for
// different values; the id of the second then gets the target's name as prefix. So no step reads a secret of another
// target. TestSecretsOfEachTarget shows it.
type secretSet struct {
	graph   *planner.Graph
	secrets map[string]config.Secret
	ssh     map[string]config.SSH
}

func newSecretSet(g *planner.Graph) *secretSet {
	return &secretSet{graph: g, secrets: map[string]config.Secret{}, ssh: map[string]config.SSH{}}
}

// rename replaces the ids in a command by those under which the session serves them.
func (o *secretSet) rename(s *planner.Step, exec *pb.ExecOp) {
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

// renameSource does the same for a source: the token or header of a repository, for all hosts or one, and its SSH
// agent.
func (o *secretSet) renameSource(s *planner.Step, attrs map[string]string) {
	for _, key := range []string{pb.AttrAuthTokenSecret, pb.AttrAuthHeaderSecret, pb.AttrHTTPAuthHeaderSecret} {
		if id := attrs[key]; id != "" {
			attrs[key] = o.hostSecrets(s, id)
		}
	}
	if id, ok := attrs[pb.AttrMountSSHSock]; ok {
		attrs[pb.AttrMountSSHSock] = o.agent(s, id)
	}
}

// hostSecrets adds the secrets ID and ID.HOST, and returns their common id. A daemon requests both; both are optional.
func (o *secretSet) hostSecrets(s *planner.Step, id string) string {
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
	return unknownID(s, id)
}

// isFor reports whether a secret is ID or ID.HOST.
func isFor(secret, id string) bool { return secret == id || strings.HasPrefix(secret, id+".") }

// find returns the secret of an id from the first target of the step that has it.
func (o *secretSet) find(s *planner.Step, id string) (target string, secret config.Secret, ok bool) {
	for _, target := range s.Targets {
		for _, secret := range o.graph.Secrets[target] {
			if secret.ID == id {
				return target, secret, true
			}
		}
	}
	return "", config.Secret{}, false
}

// secret adds the secret of a step and returns the id under which it is served.
func (o *secretSet) secret(s *planner.Step, id string) string {
	target, secret, ok := o.find(s, id)
	if !ok {
		return unknownID(s, id)
	}
	if was, ok := o.secrets[id]; ok && was != secret {
		id = target + "/" + id
	}
	o.secrets[id] = secret
	return id
}

// unknownID returns an id that the session does not serve: a step must not get a secret of another target. The double
// slash marks it: rewordings recognizes it in the daemon's error and shows only the id that the step names.
func unknownID(s *planner.Step, id string) string {
	if len(s.Targets) == 0 {
		return "/" + id
	}
	return s.Targets[0] + "//" + id
}

// agent adds the SSH agent of a step and returns the id under which it is served.
func (o *secretSet) agent(s *planner.Step, id string) string {
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
	return unknownID(s, id)
}

// GetSecret implements secrets.SecretStore.
func (o *secretSet) GetSecret(_ context.Context, id string) ([]byte, error) {
	secret, ok := o.secrets[id]
	if !ok {
		return nil, fmt.Errorf("%w: secret %q not found", secrets.ErrNotFound, id)
	}
	value, err := executor.ReadSecret(secret)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	return value, nil
}

// secretsOf returns the values of the secrets that a step can read, which its output must not show.
func (o *secretSet) secretsOf(s *planner.Step) [][]byte {
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

// agents returns the provider of the SSH agents, nil without any.
func (o *secretSet) agents() (session.Attachable, error) {
	if len(o.ssh) == 0 {
		return nil, nil
	}
	var list []sshprovider.AgentConfig
	for id, agent := range o.ssh {
		list = append(list, sshprovider.AgentConfig{ID: id, Paths: agent.Paths})
	}
	return sshprovider.NewSSHAgentProvider(list)
}

// fileReceiver receives files from a daemon, one at a time.
type fileReceiver struct {
	turn sync.Mutex // held while a file is received
	to   io.Writer  // nil when no file is expected
}

// open returns the destination of the daemon's file.
func (f *fileReceiver) open(map[string]string) (io.WriteCloser, error) {
	if f.to == nil {
		return nil, fmt.Errorf("no file was requested")
	}
	return nopCloser{f.to}, nil
}

type nopCloser struct{ io.Writer }

// Close does nothing: the receiver closes the destination.
func (nopCloser) Close() error { return nil }

// attach lets the session serve everything that the steps read from this machine, and receive images and files.
func (b *builder) attach(s *session.Session, r *run, o *secretSet) error {
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
		return fmt.Errorf("SSH agents: %w", err)
	}
	s.Allow(filesync.NewFSSyncProvider(dirs))
	s.Allow(filesync.NewFSSyncTarget(filesync.WithFSSync(0, b.receiver.open)))
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

// openDir returns a build context as daemons see it: all files belong to root.
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

// credentials returns the provider of registry credentials for daemons: the same ones as the registry client uses.
func credentials(keys authn.Keychain) authprovider.AuthConfigProvider {
	return func(
		ctx context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck,
	) (types.AuthConfig, error) {
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
			Username: c.Username, Password: c.Password, Auth: c.Auth,
			IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
			ServerAddress: host,
		}, nil
	}
}

// entitlements returns the granted permissions that a daemon must know.
func entitlements(allow []string) []string {
	var list []string
	for _, a := range allow {
		if a == "network.host" || a == "security.insecure" || a == "device" || strings.HasPrefix(a, "device=") {
			list = append(list, a)
		}
	}
	return list
}
