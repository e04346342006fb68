package buildkitd

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer" // docker-container://
	_ "github.com/moby/buildkit/client/connhelper/kubepod"         // kube-pod://
	_ "github.com/moby/buildkit/client/connhelper/nerdctlcontainer"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"        // ssh://
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // file names need not be UTF-8
)

// defaultPort is where buildkitd listens in its own examples.
const defaultPort = "1234"

// Dial makes a client for a builder's address. An address of tcp+tls://HOST[:PORT] takes its certificates from
// ?dir=FOLDER (ca.pem, cert.pem and key.pem, or the names that Kubernetes gives them) or from ?ca=, ?cert= and ?key=;
// ?servername= is the name in the builder's certificate if it is not HOST.
func Dial(ctx context.Context, address string) (*client.Client, error) {
	target, opts, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	return client.New(ctx, target, opts...)
}

// CheckAddress says what is wrong with an address as it is written.
func CheckAddress(address string) error {
	_, _, err := parseAddress(address)
	return err
}

// parseAddress is the address for BuildKit's client, with what it says of certificates.
func parseAddress(address string) (string, []client.ClientOpt, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", nil, fmt.Errorf("address of the builder: %w", err)
	}
	switch u.Scheme {
	case "unix", "npipe", "docker-container", "kube-pod", "nerdctl-container", "podman-container", "ssh":
		return address, nil, nil
	case "tcp", "tcp+tls", "buildkit":
	default:
		return "", nil, fmt.Errorf("%q is no address of a builder: use buildkit://, tcp://, tcp+tls://, unix://, docker-container://, kube-pod:// or ssh://", address)
	}
	if u.Hostname() == "" {
		return "", nil, fmt.Errorf("address of the builder %q names no host", address)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	target := "tcp://" + net.JoinHostPort(u.Hostname(), port)
	opts, err := tlsOptions(u)
	if err != nil {
		return "", nil, fmt.Errorf("address of the builder %q: %w", address, err)
	}
	return target, opts, nil
}

func tlsOptions(u *url.URL) ([]client.ClientOpt, error) {
	q := u.Query()
	ca, cert, key := q.Get("ca"), q.Get("cert"), q.Get("key")
	if dir := q.Get("dir"); dir != "" {
		ca = oneOf(dir, "ca.pem", "ca.crt")
		cert, key = oneOf(dir, "cert.pem", "tls.crt"), oneOf(dir, "key.pem", "tls.key")
		if ca == "" {
			return nil, fmt.Errorf("%s holds no ca.pem or ca.crt", dir)
		}
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("a certificate and its key are needed together")
	}
	server := q.Get("servername")
	if server == "" {
		server = u.Hostname()
	}
	var opts []client.ClientOpt
	switch {
	case ca != "":
		opts = append(opts, client.WithServerConfig(server, ca))
	case u.Scheme == "tcp+tls":
		opts = append(opts, client.WithServerConfigSystem(server))
	case cert != "":
		return nil, fmt.Errorf("certificates are for tcp+tls://")
	}
	if cert != "" {
		opts = append(opts, client.WithCredentials(cert, key))
	}
	return opts, nil
}

// oneOf is the path of the first of names that is in dir, or "".
func oneOf(dir string, names ...string) string {
	for _, name := range names {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
