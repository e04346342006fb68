package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// transportTo is the transport to a host: the usual one, or a copy with the host's own certificates from the
// certs.d folders, or one that takes any certificate. Transports that are no *http.Transport stay as they are.
func (c *Client) transportTo(at endpoint) (http.RoundTripper, error) {
	base, ok := c.base.(*http.Transport)
	if !ok || at.plain {
		return c.base, nil
	}
	dir := c.certDir(at.host)
	if dir == "" && !at.insecure {
		return c.base, nil
	}
	own := base.Clone()
	if own.TLSClientConfig == nil {
		own.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	own.TLSClientConfig.InsecureSkipVerify = at.insecure
	if dir == "" {
		return own, nil
	}
	if err := addCertificates(own.TLSClientConfig, dir); err != nil {
		return nil, &Error{
			Registry: at.host, What: "read the certificates in " + dir, Cause: err,
			Hint: "that folder holds *.crt of authorities, and pairs of *.cert and *.key of a client",
		}
	}
	return own, nil
}

// certDir is the first folder with certificates for a host, empty when there is none.
func (c *Client) certDir(host string) string {
	for _, dir := range c.opt.CertDirs {
		path := filepath.Join(dir, loginHost(host))
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
	}
	return ""
}

func addCertificates(config *tls.Config, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			err = addAuthority(config, path)
		case ".cert":
			var pair tls.Certificate
			if pair, err = tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key"); err == nil {
				config.Certificates = append(config.Certificates, pair)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

// addAuthority adds to the system's authorities.
func addAuthority(config *tls.Config, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var roots *x509.CertPool
	if config.RootCAs != nil {
		roots = config.RootCAs.Clone()
	} else if roots, err = x509.SystemCertPool(); err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM(text) {
		return errors.New("it has no certificate in PEM form")
	}
	config.RootCAs = roots
	return nil
}
