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

// defaultPort is the port of buildkitd in its own examples.
const defaultPort = "1234"

// Dial returns a client for the address of a builder. An address tcp+tls://HOST[:PORT] reads certificates from
// ?dir=FOLDER (ca.pem, cert.pem and key.pem, or the names that Kubernetes uses) or from ?ca=, ?cert= and ?key=.
// ?servername= is the name in the builder's certificate if it differs from HOST.
func Dial(ctx context.Context, address string) (*client.Client, error) {
	target, opts, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	return client.New(ctx, target, opts...)
}

// CheckAddress reports an invalid address. It does not connect, but it reads the certificates.
func CheckAddress(address string) error {
	_, _, err := parseAddress(address)
	return err
}

// parseAddress returns the address in the form of BuildKit's client, and options for the connection.
func parseAddress(address string) (string, []client.ClientOpt, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", nil, errors.New("engine address is not a URL") // it is not shown, since it may hold a password
	}
	switch u.Scheme {
	case "unix", "npipe":
		return address, nil, nil
	case "docker-container", "kube-pod", "nerdctl-container", "podman-container", "ssh":
		command, err := connhelper.GetConnectionHelper(address)
		if err != nil {
			return "", nil, fmt.Errorf("engine address %q: %w", u.Redacted(), err)
		}
		return address, []client.ClientOpt{client.WithContextDialer(withReasons(command.ContextDialer))}, nil
	case "tcp", "tcp+tls", "buildkit":
	default:
		return "", nil, fmt.Errorf("%q is not an engine address; use tcp://HOST:PORT, tcp+tls://, buildkit://, "+
			"unix://, docker-container://, kube-pod:// or ssh://", u.Redacted())
	}
	if u.Hostname() == "" || u.User != nil {
		return "", nil, fmt.Errorf("engine address %q: expected %s://HOST[:PORT]", u.Redacted(), u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	settings, err := tlsOf(u)
	if err != nil {
		return "", nil, fmt.Errorf("engine address %q: %w", address, err)
	}
	return "tcp://" + net.JoinHostPort(u.Hostname(), port), tlsOptions(settings), nil
}

// withReasons wraps the connections of a dialer that runs a command, such as docker or ssh. The command may end before
// the first write.
func withReasons(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return newReasonConn(conn), nil
	}
}
