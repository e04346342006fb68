package registry

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// maxCertFile bounds one file of certificates or keys, in bytes.
const maxCertFile = 4 << 20

// CertDirs lists the directories that may hold certificates of registries: those of containers-certs.d(5) and
// Docker's.
func CertDirs(getenv func(string) (string, bool)) []string {
	dirs := []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}
	config, _ := getenv("XDG_CONFIG_HOME")
	if home, _ := getenv("HOME"); config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	if config != "" {
		dirs = append([]string{filepath.Join(config, "containers", "certs.d"),
			filepath.Join(config, "docker", "certs.d")}, dirs...)
	}
	return dirs
}

// ownTransport returns the transport for a registry, with the certificates configured for it. A base transport that is
// not a *http.Transport is used unchanged.
func (c *Client) ownTransport(at endpoint) (http.RoundTripper, error) {
	t, ok := c.base.(*http.Transport)
	if !ok || at.plain {
		return c.base, nil
	}
	settings, err := c.tlsOf(at, t.TLSClientConfig)
	if err != nil {
		return nil, &Error{
			Registry: at.host, What: "read the certificates for " + loginHost(at.host), Cause: err, environment: true,
			Hint: "correct or remove the file; certificates are PEM, and each .cert needs a .key with the same name",
		}
	}
	if settings == nil {
		return t, nil
	}
	t = t.Clone()
	t.TLSClientConfig = settings
	return t, nil
}

// tlsOf returns the TLS settings for an endpoint, or nil for the common ones.
func (c *Client) tlsOf(at endpoint, common *tls.Config) (*tls.Config, error) {
	authorities := filepath.SplitList(at.ca)
	var pairs []tls.Certificate
	if dir := c.certDir(at.host); dir != "" {
		found, more, err := readCertDir(dir)
		if err != nil {
			return nil, err
		}
		authorities, pairs = append(authorities, found...), more
	}
	if len(authorities) == 0 && len(pairs) == 0 && !at.insecure {
		return nil, nil
	}
	settings := &tls.Config{}
	if common != nil {
		settings = common.Clone()
	}
	settings.Certificates = append(settings.Certificates, pairs...)
	settings.InsecureSkipVerify = settings.InsecureSkipVerify || at.insecure
	if len(authorities) == 0 {
		return settings, nil
	}
	roots := settings.RootCAs
	if roots != nil {
		roots = roots.Clone()
	} else if roots, _ = x509.SystemCertPool(); roots == nil {
		roots = x509.NewCertPool()
	}
	for _, file := range authorities {
		pem, err := readCert(file)
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s contains no certificate", file)
		}
	}
	settings.RootCAs = roots
	return settings, nil
}

// certDir returns the first directory with certificates for a host, or "".
func (c *Client) certDir(host string) string {
	for _, dir := range c.opt.CertDirs {
		own := filepath.Join(dir, loginHost(host))
		if info, err := os.Stat(own); err == nil && info.IsDir() {
			return own
		}
	}
	return ""
}

// readCertDir lists the CA files of a directory (*.crt), and reads its client certificates (*.cert with *.key).
func readCertDir(dir string) (authorities []string, pairs []tls.Certificate, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			authorities = append(authorities, path)
		case ".cert":
			pair, err := readPair(path)
			if err != nil {
				return nil, nil, err
			}
			pairs = append(pairs, pair)
		}
	}
	return authorities, pairs, nil
}

func readPair(certFile string) (tls.Certificate, error) {
	cert, err := readCert(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readCert(strings.TrimSuffix(certFile, ".cert") + ".key")
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, fmt.Errorf("%s and its key: %w", certFile, err)
	}
	return pair, nil
}

func readCert(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(file, maxCertFile)
}
