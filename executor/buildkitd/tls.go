package buildkitd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/client"
	"google.golang.org/grpc"
	grpccreds "google.golang.org/grpc/credentials"
)

// maxCertFile bounds one file of certificates or keys, in bytes.
const maxCertFile = 4 << 20

// tlsOf reads the certificates of an address. It returns nil for an address without TLS.
func tlsOf(u *url.URL) (*tls.Config, error) {
	q := u.Query()
	ca, cert, key := q.Get("ca"), q.Get("cert"), q.Get("key")
	if dir := q.Get("dir"); dir != "" {
		ca = oneOf(dir, "ca.pem", "ca.crt")
		cert, key = oneOf(dir, "cert.pem", "tls.crt"), oneOf(dir, "key.pem", "tls.key")
		if ca == "" {
			return nil, fmt.Errorf("no ca.pem or ca.crt in %s", dir)
		}
	}
	switch {
	case (cert == "") != (key == ""):
		return nil, fmt.Errorf("a certificate and its key are needed together")
	case u.Scheme != "tcp+tls" && (ca != "" || cert != ""):
		return nil, fmt.Errorf("certificates are for tcp+tls://")
	case u.Scheme != "tcp+tls":
		return nil, nil
	}
	settings := &tls.Config{ServerName: q.Get("servername"), MinVersion: tls.VersionTLS12}
	if settings.ServerName == "" {
		settings.ServerName = u.Hostname()
	}
	if err := trust(settings, ca); err != nil {
		return nil, err
	}
	return settings, identify(settings, cert, key)
}

// trust sets the only authority that may vouch for the builder. Without a file, those of the system do.
func trust(settings *tls.Config, file string) error {
	if file == "" {
		return nil
	}
	pem, err := readCert(file)
	if err != nil {
		return err
	}
	settings.RootCAs = x509.NewCertPool()
	if !settings.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s contains no certificate", file)
	}
	return nil
}

// identify sets the client certificate, if there is one.
func identify(settings *tls.Config, certFile, keyFile string) error {
	if certFile == "" {
		return nil
	}
	cert, err := readCert(certFile)
	if err != nil {
		return err
	}
	key, err := readCert(keyFile)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s with %s: %w", certFile, keyFile, err)
	}
	settings.Certificates = []tls.Certificate{pair}
	return nil
}

func readCert(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxCertFile+1))
	if err == nil && len(content) > maxCertFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxCertFile)
	}
	return content, err
}

// oneOf returns the path of the first of names that exists in dir, or "".
func oneOf(dir string, names ...string) string {
	for _, name := range names {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func tlsOptions(settings *tls.Config) []client.ClientOpt {
	if settings == nil {
		return nil
	}
	return []client.ClientOpt{
		client.WithGRPCDialOption(grpc.WithTransportCredentials(alerting{grpccreds.NewTLS(settings)})),
		client.WithGRPCDialOption(grpc.WithAuthority(settings.ServerName)),
	}
}

// alerting wraps TLS credentials so that errors contain the server's TLS alert, such as why it refused the client
// certificate. In TLS 1.3 a client learns that only when it reads. Before that, it writes to a closed connection.
type alerting struct{ grpccreds.TransportCredentials }

// ClientHandshake implements credentials.TransportCredentials.
func (a alerting) ClientHandshake(
	ctx context.Context, authority string, raw net.Conn,
) (net.Conn, grpccreds.AuthInfo, error) {
	conn, info, err := a.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return newReasonConn(conn), info, nil
}

// Clone implements credentials.TransportCredentials.
func (a alerting) Clone() grpccreds.TransportCredentials {
	return alerting{a.TransportCredentials.Clone()}
}
