package registry

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
)

// maxAuthFile bounds one file of credentials, in bytes.
const maxAuthFile = 4 << 20

// authFile is one file of credentials.
type authFile struct {
	// hosts holds the credentials for whole registries, by HOST[:PORT]; Docker Hub is docker.io.
	hosts map[string]types.AuthConfig
	// scoped holds credentials for a part of a registry, by HOST[:PORT]/PATH.
	scoped map[string]types.AuthConfig
	// helpers names the credential helpers by host, as written; store is the helper for all other hosts, or "".
	helpers map[string]string
	store   string
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
	parsed := configfile.New(path)
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := parsed.LoadFromReader(bytes.NewReader(raw)); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return newAuthFile(parsed), nil
}

// newAuthFile sorts the credentials of a file by what they are for. If several keys mean the same host, the one that is
// written as a bare host counts.
func newAuthFile(parsed *configfile.ConfigFile) *authFile {
	file := &authFile{
		hosts: map[string]types.AuthConfig{}, scoped: map[string]types.AuthConfig{},
		helpers: parsed.CredentialHelpers, store: parsed.CredentialsStore,
	}
	for key, c := range parsed.AuthConfigs {
		host, path := splitAuthKey(key)
		c = withoutAddress(c)
		if path != "" {
			file.scoped[host+"/"+path] = c
		} else if _, known := file.hosts[host]; !known || key == host {
			file.hosts[host] = c
		}
	}
	return file
}

// splitAuthKey splits a key of a file of credentials into the host and the path to which they are limited, "" for the
// whole registry.
//
// Docker writes HOST or a URL, which for its first API versions ends in /v1/ or /v2/. Podman writes HOST or HOST/PATH.
// So /v1/ and /v2/ are no paths, with their slash or in a URL; any other path is one, also team, v1team, v1/team and
// v2 without either. When in doubt, credentials are sent to less of the registry, not to more.
func splitAuthKey(key string) (host, path string) {
	_, rest, isURL := strings.Cut(key, "://")
	if isURL {
		if u, err := url.Parse(key); err == nil && u.Host != "" {
			rest = u.Host + u.Path // without a user, a query and a fragment
		}
	} else {
		rest = key
	}
	host, path, _ = strings.Cut(rest, "/")
	if isURL || strings.HasSuffix(path, "/") {
		if version := strings.Trim(path, "/"); version == "v1" || version == "v2" {
			path = ""
		}
	}
	return loginHost(host), strings.Trim(path, "/")
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

// ofHost returns the credentials that DOCKER_AUTH_CONFIG, or the first file or its helper, has for a registry. A helper
// must respond within patience.
func ofHost(ctx context.Context, files []*authFile, host string, patience time.Duration) (types.AuthConfig, error) {
	for _, key := range []string{host, loginHost(host)} {
		// A file without content answers from the variable alone, which has no helpers and only exact keys.
		found, err := configfile.New("").GetAuthConfig(key)
		if err == nil && withoutAddress(found) != (types.AuthConfig{}) {
			return withoutAddress(found), nil
		}
	}
	for _, file := range files {
		found := file.hosts[loginHost(host)]
		if helper := file.helperOf(host); helper != "" {
			answer, err := askHelper(ctx, helper, serverOf(host), patience)
			if err != nil {
				return types.AuthConfig{}, err
			}
			found.Username, found.Password, found.IdentityToken = answer.Username, answer.Password, answer.IdentityToken
		}
		if found != (types.AuthConfig{}) {
			return found, nil
		}
	}
	return types.AuthConfig{}, nil
}

// helperOf returns the name of the credential helper for a registry, or "".
func (f *authFile) helperOf(host string) string {
	for _, key := range []string{serverOf(host), host, loginHost(host)} {
		if helper := f.helpers[key]; helper != "" {
			return helper
		}
	}
	return f.store
}

// serverOf returns the name by which helpers know a registry.
func serverOf(host string) string {
	if loginHost(host) == "docker.io" {
		return authn.DefaultAuthKey
	}
	return host
}

// withoutAddress clears the server address, so that credentials compare equal to the zero value if there are none.
func withoutAddress(c types.AuthConfig) types.AuthConfig {
	c.ServerAddress = ""
	return c
}
