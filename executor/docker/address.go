package docker

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const defaultHost = "unix:///var/run/docker.sock"

// findHost returns the engine's address and the directory of its TLS files, "" without TLS. env looks up a variable.
func findHost(name string, env func(string) string) (host, certs string, err error) {
	dir := configDir(env)
	if name == "" {
		if h := env("DOCKER_HOST"); h != "" {
			if env("DOCKER_TLS_VERIFY") != "" {
				if certs = env("DOCKER_CERT_PATH"); certs == "" {
					certs = dir
				}
			}
			return h, certs, nil
		}
		if name = env("DOCKER_CONTEXT"); name == "" {
			name = readConfig(dir).CurrentContext
		}
	}
	if name == "" || name == "default" {
		return defaultHost, "", nil
	}
	return contextHost(dir, name)
}

// configDir returns the directory of the Docker CLI's configuration.
func configDir(env func(string) string) string {
	if dir := env("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	return filepath.Join(env("HOME"), ".docker")
}

// cliConfig is what this package reads of the Docker CLI's configuration.
type cliConfig struct {
	CurrentContext string
	Aliases        map[string]string
}

// readConfig reads the configuration in dir. One that is missing or damaged is empty, as the default context is used
// then.
func readConfig(dir string) cliConfig {
	var c cliConfig
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || json.Unmarshal(b, &c) != nil {
		return cliConfig{}
	}
	return c
}

// Builder returns the plugin of the Docker CLI that `docker build` calls, "" if the user has not chosen one. env
// looks up a variable.
func Builder(env func(string) string) string { return readConfig(configDir(env)).Aliases["builder"] }

// contextHost reads the files of a docker context; their folder is named by the SHA-256 of the context's name.
func contextHost(dir, name string) (host, certs string, err error) {
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	b, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if errors.Is(err, os.ErrNotExist) {
		return "", "", fmt.Errorf("docker context %q does not exist; list contexts with docker context ls", name)
	}
	if err != nil {
		return "", "", fmt.Errorf("docker context %q: %w; make the file readable, or set DOCKER_HOST", name, err)
	}
	var m struct {
		Endpoints map[string]struct{ Host string }
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return "", "", fmt.Errorf("docker context %q: %w; create it again with docker context create", name, err)
	}
	if host = m.Endpoints["docker"].Host; host == "" {
		return "", "", fmt.Errorf("docker context %q has no docker endpoint; choose another: docker context use", name)
	}
	if tlsDir := filepath.Join(dir, "contexts", "tls", id, "docker"); isDir(tlsDir) {
		certs = tlsDir
	}
	return host, certs, nil
}

func isDir(p string) bool {
	fi, err := os.Stat(p)
	return err == nil && fi.IsDir()
}

// tlsConfig reads ca.pem and, where it exists, the client certificate cert.pem with key.pem.
func tlsConfig(dir string) (*tls.Config, error) {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("%w; set DOCKER_CERT_PATH to the directory of ca.pem, cert.pem and key.pem", err)
	}
	if !c.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s contains no certificate; replace it by that of the engine's authority",
			filepath.Join(dir, "ca.pem"))
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cert.pem and key.pem in %s: %w; replace both", dir, err)
	}
	c.Certificates = []tls.Certificate{cert}
	return c, nil
}
