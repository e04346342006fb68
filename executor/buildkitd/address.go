package buildkitd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/connhelper"
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
		return "", nil, errors.New("the address of the builder is no URL") // which may hold a password
	}
	switch u.Scheme {
	case "unix", "npipe":
		return address, nil, nil
	case "docker-container", "kube-pod", "nerdctl-container", "podman-container", "ssh":
		command, err := connhelper.GetConnectionHelper(address)
		if err != nil {
			return "", nil, fmt.Errorf("address of the builder %q: %w", u.Redacted(), err)
		}
		return address, []client.ClientOpt{client.WithContextDialer(telling(command.ContextDialer))}, nil
	case "tcp", "tcp+tls", "buildkit":
	default:
		return "", nil, fmt.Errorf("%q is no address of a builder: use buildkit://, tcp://, tcp+tls://, unix://, docker-container://, kube-pod:// or ssh://", u.Redacted())
	}
	if u.Hostname() == "" || u.User != nil {
		return "", nil, fmt.Errorf("address of the builder %q: want %s://HOST[:PORT]", u.Redacted(), u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	settings, err := tlsOf(u)
	if err != nil {
		return "", nil, fmt.Errorf("address of the builder %q: %w", address, err)
	}
	return "tcp://" + net.JoinHostPort(u.Hostname(), port), tlsOptions(settings), nil
}

// telling is a dialer to whose connections a command leads that may end before it is written to.
func telling(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return newLastWords(conn), nil
	}
}
