package executor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	defaultDockerHost = "unix:///var/run/docker.sock"
	// dockerTimeout bounds how long an engine may take to answer a ping.
	dockerTimeout = 10 * time.Second
)

// DockerError says that a Docker engine did not do what it was asked.
type DockerError struct {
	Host string
	Err  error
}

// Error implements error.
func (e *DockerError) Error() string { return fmt.Sprintf("docker engine at %s: %v", e.Host, e.Err) }

// Unwrap is the cause.
func (e *DockerError) Unwrap() error { return e.Err }

// Docker is a client of the Docker Engine API, as much of it as loading an image needs.
type Docker struct {
	host string
	base string
	http *http.Client
}

// DialDocker finds the engine as the docker command does (a context by name, DOCKER_HOST, DOCKER_CONTEXT, the config's
// current context, the usual socket) and asks whether it is there.
func DialDocker(ctx context.Context, name string) (Loader, error) {
	host, certs, err := dockerHost(name, os.Getenv)
	if err != nil {
		return nil, err
	}
	d, err := newDocker(host, certs)
	if err != nil {
		return nil, &DockerError{Host: host, Err: err}
	}
	return d, d.ping(ctx)
}

// dockerHost returns the engine's address and the folder of its TLS files, if any.
func dockerHost(name string, env func(string) string) (host, certs string, err error) {
	dir := env("DOCKER_CONFIG")
	if dir == "" {
		dir = filepath.Join(env("HOME"), ".docker")
	}
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
			name = currentContext(dir)
		}
	}
	if name == "" || name == "default" {
		return defaultDockerHost, "", nil
	}
	return contextHost(dir, name)
}

func currentContext(dir string) string {
	var c struct{ CurrentContext string }
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || json.Unmarshal(b, &c) != nil {
		return ""
	}
	return c.CurrentContext
}

func contextHost(dir, name string) (host, certs string, err error) {
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	b, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if err != nil {
		return "", "", fmt.Errorf("docker context %q: %w", name, err)
	}
	var m struct {
		Endpoints map[string]struct{ Host string }
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return "", "", fmt.Errorf("docker context %q: %w", name, err)
	}
	if host = m.Endpoints["docker"].Host; host == "" {
		return "", "", fmt.Errorf("docker context %q has no docker endpoint", name)
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

func newDocker(host, certs string) (*Docker, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, err
	}
	d := &Docker{host: host, base: "http://docker"}
	t := &http.Transport{DisableCompression: true}
	d.http = &http.Client{Transport: t}
	switch u.Scheme {
	case "unix":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
		}
	case "tcp", "http", "https":
		d.base = "http://" + u.Host
		if certs == "" && u.Scheme != "https" {
			break
		}
		d.base = "https://" + u.Host
		if certs != "" {
			t.TLSClientConfig, err = dockerTLS(certs)
		}
	default:
		err = fmt.Errorf("%q addresses are not supported: use unix:// or tcp:// in DOCKER_HOST", u.Scheme)
	}
	return d, err
}

func dockerTLS(dir string) (*tls.Config, error) {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	if !c.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, "ca.pem"))
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	c.Certificates = []tls.Certificate{cert}
	return c, err
}

func (d *Docker) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dockerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"/_ping", nil)
	if err != nil {
		return &DockerError{d.host, err}
	}
	res, err := d.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return &DockerError{d.host, fmt.Errorf("it does not answer: %w; start it, or set DOCKER_HOST", err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &DockerError{d.host, fmt.Errorf("ping: status %s", res.Status)}
	}
	return nil
}

// Load implements Loader: it streams a docker tar. Engines with the classic store read its manifest.json, those with
// containerd's read its OCI index.
func (d *Docker) Load(ctx context.Context, tar io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+"/images/load?quiet=1", tar)
	if err != nil {
		return &DockerError{d.host, err}
	}
	req.Header.Set("Content-Type", "application/x-tar")
	res, err := d.http.Do(req)
	if err != nil {
		return &DockerError{d.host, fmt.Errorf("load: %w", err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &DockerError{d.host, fmt.Errorf("load: %s", errorText(res))}
	}
	return d.loaded(res.Body)
}

// errorText is the engine's own message, which stands in the body as JSON.
func errorText(res *http.Response) string {
	var m struct{ Message string }
	b, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if json.Unmarshal(b, &m) == nil && m.Message != "" {
		return m.Message
	}
	return res.Status + " " + string(bytes.TrimSpace(b[:min(len(b), 500)]))
}

// loaded reads the engine's progress stream to its end; errors of the load stand in it.
func (d *Docker) loaded(body io.Reader) error {
	dec := json.NewDecoder(body)
	for {
		var m struct {
			Error       string
			ErrorDetail struct{ Message string }
		}
		err := dec.Decode(&m)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &DockerError{d.host, fmt.Errorf("load: read answer: %w", err)}
		}
		if text := m.ErrorDetail.Message + m.Error; text != "" {
			if m.ErrorDetail.Message != "" {
				text = m.ErrorDetail.Message
			}
			return &DockerError{d.host, errors.New("load: " + strings.TrimSpace(text))}
		}
	}
}
