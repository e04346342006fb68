package registry

// Credentials are looked up by path: first what a file has for the repository or a path above it, longest first, then
// what a file or its helper has for the registry. Docker's library would use an entry for HOST/PATH for all of HOST, so
// such entries are moved to a separate map before (TestPodmanLogin).
//
// A helper that fails or hangs is an error, never "no credentials": an anonymous request would fail with a misleading
// 404 or 401, or pull another image (TestCredentialHelperFails, TestCredentialHelperHangs).

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// maxAuthFile bounds one file of credentials, in bytes.
const maxAuthFile = 4 << 20

// helperPatience bounds the wait for a credential helper. It is long, since a helper may ask the user.
const helperPatience = 2 * time.Minute

// NewKeychain returns the user's credentials. It reads REGISTRY_AUTH_FILE if set, then Docker's config.json, then
// Podman's auth.json. The first file with credentials for a repository or its registry is used. Each file is read
// once, and each helper is run once per host.
func NewKeychain(getenv func(string) (string, bool)) authn.Keychain {
	return newKeychain(authPaths(getenv), helperPatience)
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
	patience time.Duration // with a helper

	mu    sync.Mutex
	files []*authFile
	err   error
	read  bool
	hosts map[string]*credentials // by registry: what the files or their helpers have for it
}

// credentials caches the result for a host, including an error: a failing helper is not run again.
type credentials struct {
	once   sync.Once
	config types.AuthConfig
	err    error
}

// Resolve implements authn.Keychain.
func (k *keychain) Resolve(target authn.Resource) (authn.Authenticator, error) {
	files, err := k.load()
	if err != nil {
		return nil, err
	}
	host := target.RegistryStr()
	found := ofRepository(files, host, target.String())
	if found == (types.AuthConfig{}) {
		one := k.of(host)
		one.once.Do(func() { one.config, one.err = k.ask(files, host) })
		if found, err = one.config, one.err; err != nil {
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

// ask is ofHost with a time limit. A helper that never answers keeps running: its library cannot stop it.
func (k *keychain) ask(files []*authFile, host string) (types.AuthConfig, error) {
	type answer struct {
		config types.AuthConfig
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		c, err := ofHost(files, host)
		answers <- answer{c, err}
	}()
	timer := time.NewTimer(k.patience)
	defer timer.Stop()
	select {
	case a := <-answers:
		return a.config, a.err
	case <-timer.C:
		return types.AuthConfig{}, fmt.Errorf("the credential helper for %s did not respond within %s; "+
			"to test it, run: echo %s | docker-credential-%s get", host, k.patience,
			host, helperOf(files, host))
	}
}

func (k *keychain) of(host string) *credentials {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hosts[host] == nil {
		k.hosts[host] = &credentials{}
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
	if len(k.files) == 0 && k.err == nil {
		k.files = append(k.files, newAuthFile("")) // DOCKER_AUTH_CONFIG may have some
	}
	return k.files, k.err
}

func loadAuth(path string) (*authFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := readAll(f, maxAuthFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file := newAuthFile(path)
	if len(bytes.TrimSpace(raw)) == 0 {
		return file, nil
	}
	if err := file.LoadFromReader(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file.split()
	return file, nil
}

// authFile is one file of credentials.
type authFile struct {
	*configfile.ConfigFile
	// scoped holds credentials for a part of a registry, by HOST/PATH.
	scoped map[string]types.AuthConfig
}

func newAuthFile(path string) *authFile {
	return &authFile{ConfigFile: configfile.New(path), scoped: map[string]types.AuthConfig{}}
}

// split moves credentials for a part of a registry to scoped.
func (f *authFile) split() {
	for key, c := range f.AuthConfigs {
		_, path, ok := strings.Cut(key, "/")
		if !ok || strings.Contains(key, "://") || path == "" || strings.HasPrefix(path, "v1") ||
			strings.HasPrefix(path, "v2") {
			continue // a host as Docker writes it
		}
		f.scoped[key] = withoutAddress(c)
		delete(f.AuthConfigs, key)
	}
}

// ofRepository returns the credentials for a repository or a path above it, the longest first. Helpers know only
// hosts.
func ofRepository(files []*authFile, host, repository string) types.AuthConfig {
	_, path, _ := strings.Cut(repository, "/")
	for _, file := range files {
		for at := loginHost(host) + "/" + path; strings.Contains(at, "/"); at = at[:strings.LastIndexByte(at, '/')] {
			if found := file.scoped[at]; found != (types.AuthConfig{}) {
				return found
			}
		}
	}
	return types.AuthConfig{}
}

// ofHost returns the credentials that the first file, or its helper, has for a registry.
func ofHost(files []*authFile, host string) (types.AuthConfig, error) {
	keys := []string{host}
	if host == name.DefaultRegistry {
		keys = []string{authn.DefaultAuthKey, "docker.io"}
	}
	for _, file := range files {
		for _, key := range keys {
			found, err := file.GetAuthConfig(key)
			if err != nil {
				return types.AuthConfig{}, err
			}
			if found = withoutAddress(found); found != (types.AuthConfig{}) {
				return found, nil
			}
		}
	}
	return types.AuthConfig{}, nil
}

// helperOf returns the name of the helper that ofHost runs first for a registry.
func helperOf(files []*authFile, host string) string {
	for _, file := range files {
		if helper := file.CredentialHelpers[host]; helper != "" {
			return helper
		}
		if file.CredentialsStore != "" {
			return file.CredentialsStore
		}
	}
	return "NAME"
}

// withoutAddress clears the server address, so that credentials compare equal to the zero value if there are none.
func withoutAddress(c types.AuthConfig) types.AuthConfig {
	c.ServerAddress = ""
	return c
}
