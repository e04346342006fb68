package registry

// Credentials are looked up by path: first what a file has for the repository or a path above it, longest first, then
// what a file or its helper has for the registry. Credentials for HOST/PATH never serve all of HOST
// (TestScopedCredentials, TestPodmanLogin).
//
// A helper that fails or hangs is an error, never "no credentials": an anonymous request would fail with a misleading
// 404 or 401, or pull another image (TestCredentialHelperFails, TestCredentialHelperHangs).

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
)

// helperPatience bounds the wait for a credential helper. It is long, since a helper may ask the user.
const helperPatience = 2 * time.Minute

// NewKeychain returns the user's credentials. It reads REGISTRY_AUTH_FILE if set, then Docker's config.json, then
// Podman's auth.json. The first file with credentials for a repository or its registry is used. Each file is read
// once, and each helper is run once per host.
func NewKeychain(getenv func(string) (string, bool)) authn.Keychain {
	k := newKeychain(authPaths(getenv), helperPatience)
	k.variable, _ = getenv(configfile.DockerEnvConfigKey)
	return k
}

func newKeychain(paths []string, patience time.Duration) *keychain {
	return &keychain{paths: paths, patience: patience, hosts: map[string]*credentials{}}
}

// authPaths lists the files that may hold credentials, in order of precedence.
func authPaths(getenv func(string) (string, bool)) []string {
	get := func(name string) string {
		v, _ := getenv(name)
		return v
	}
	var paths []string
	if file := get("REGISTRY_AUTH_FILE"); file != "" {
		paths = append(paths, file)
	}
	home := get("HOME")
	docker, settings := get("DOCKER_CONFIG"), get("XDG_CONFIG_HOME")
	if docker == "" && home != "" {
		docker = filepath.Join(home, ".docker")
	}
	if docker != "" {
		paths = append(paths, filepath.Join(docker, config.ConfigFileName))
	}
	if dir := get("XDG_RUNTIME_DIR"); dir != "" {
		paths = append(paths, filepath.Join(dir, "containers", "auth.json"))
	}
	if settings == "" && home != "" {
		settings = filepath.Join(home, ".config")
	}
	if settings != "" {
		paths = append(paths, filepath.Join(settings, "containers", "auth.json"))
	}
	return paths
}

type keychain struct {
	paths    []string
	variable string        // the value of DOCKER_AUTH_CONFIG
	patience time.Duration // with a helper

	mu    sync.Mutex
	files []*authFile
	err   error
	read  bool
	hosts map[string]*credentials // by registry: what the files or their helpers have for it
}

// credentials caches the result for a host, including an error: a failing helper is not run again.
type credentials struct {
	turn   chan struct{} // a lock that a context can interrupt
	known  bool
	config types.AuthConfig
	err    error
}

// Resolve implements authn.Keychain.
func (k *keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain. When the context ends, a running helper is killed.
func (k *keychain) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	files, err := k.load()
	if err != nil {
		return nil, err
	}
	host := target.RegistryStr()
	found := ofRepository(files, host, target.String())
	if found == (types.AuthConfig{}) {
		if found, err = k.ofHost(ctx, files, host); err != nil {
			return nil, err
		}
	}
	if found == (types.AuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: found.Username, Password: found.Password, Auth: found.Auth,
		IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
	}), nil
}

// ofHost returns the credentials for a registry. It asks a helper at most once, unless the context ended meanwhile.
func (k *keychain) ofHost(ctx context.Context, files []*authFile, host string) (types.AuthConfig, error) {
	one := k.of(host)
	select {
	case <-one.turn:
	case <-ctx.Done():
		return types.AuthConfig{}, context.Cause(ctx)
	}
	defer func() { one.turn <- struct{}{} }()
	if !one.known {
		one.config, one.err = ofHost(ctx, files, host, k.patience)
		one.known = ctx.Err() == nil
	}
	return one.config, one.err
}

func (k *keychain) of(host string) *credentials {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hosts[host] == nil {
		k.hosts[host] = &credentials{turn: make(chan struct{}, 1)}
		k.hosts[host].turn <- struct{}{}
	}
	return k.hosts[host]
}

func (k *keychain) load() ([]*authFile, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read {
		return k.files, k.err
	}
	k.read = true
	if k.err = checkEnvAuth(k.variable); k.err != nil {
		return nil, k.err
	}
	for _, path := range k.paths {
		file, err := loadAuth(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			k.err = err
			break
		}
		k.files = append(k.files, file)
	}
	return k.files, k.err
}
