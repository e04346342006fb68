// Package docker loads images into a Docker engine. It finds the engine as the docker command does and speaks as much
// of the Engine API as loading needs. It may import nothing of this module.
package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// pingTimeout bounds how long an engine may take to answer a ping.
const pingTimeout = 10 * time.Second

// Error reports that a Docker engine cannot be found or reached, or did not load an image.
type Error struct {
	Host string // address of the engine; "" if it cannot be found
	Err  error
	// Unreachable reports that the engine cannot be found or did not answer; it did not reject a request.
	Unreachable bool
}

// Error implements error.
func (e *Error) Error() string {
	if e.Host == "" {
		return "find the docker engine: " + e.Err.Error()
	}
	return fmt.Sprintf("docker engine at %s: %v", e.Host, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Client is a client of one Docker engine.
type Client struct {
	host string
	base string
	http *http.Client
}

// Dial finds the engine and pings it. A name selects a docker context. Without one, Dial uses DOCKER_HOST,
// DOCKER_CONTEXT, the current context of the Docker configuration, or the default socket, in this order.
func Dial(ctx context.Context, name string) (*Client, error) {
	c, err := find(name, os.Getenv)
	if err != nil {
		return nil, err
	}
	return c, c.ping(ctx)
}

// find returns a client of the engine that Dial describes. env looks up a variable.
func find(name string, env func(string) string) (*Client, error) {
	host, certs, err := findHost(name, env)
	if err != nil {
		return nil, &Error{Err: err, Unreachable: true}
	}
	c, err := newClient(host, certs)
	if err != nil {
		shown := ""
		if c != nil {
			shown = c.host
		}
		return nil, &Error{Host: shown, Err: err, Unreachable: true}
	}
	return c, nil
}

func newClient(host, certs string) (*Client, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, errors.New("it is not a URL; use unix:// or tcp:// in DOCKER_HOST")
	}
	c := &Client{host: u.Redacted(), base: "http://docker"}
	t := &http.Transport{DisableCompression: true}
	c.http = &http.Client{Transport: t}
	switch u.Scheme {
	case "unix":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
		}
	case "tcp", "http", "https":
		c.base = "http://" + u.Host
		if certs == "" && u.Scheme != "https" {
			break
		}
		c.base = "https://" + u.Host
		if certs != "" {
			t.TLSClientConfig, err = tlsConfig(certs)
		}
	default:
		err = fmt.Errorf("%q addresses are not supported; use unix:// or tcp:// in DOCKER_HOST", u.Scheme)
	}
	return c, err
}

func (c *Client) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	res, err := c.get(ctx, "/_ping")
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// get sends a request to which the engine must answer 200.
func (c *Client) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, &Error{Host: c.host, Err: err}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, &Error{Host: c.host, Err: c.unreachable(err), Unreachable: true}
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		err := fmt.Errorf("%s: %s; restart it, or set DOCKER_HOST", path, errorText(res))
		return nil, &Error{Host: c.host, Err: err, Unreachable: true}
	}
	return res, nil
}

// unreachable explains an error of a connection.
func (c *Client) unreachable(err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer; restart it, or set DOCKER_HOST")
	case errors.As(err, &op):
		err = op.Err
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("cannot connect: %w; add this user to the group of the socket, or set DOCKER_HOST", err)
	}
	return fmt.Errorf("cannot connect: %w; start it, or set DOCKER_HOST", err)
}

// Load streams a tar of images to the engine. Engines with the classic store read its manifest.json, those with
// containerd's store read its OCI index.
func (c *Client) Load(ctx context.Context, tar io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/images/load?quiet=1", tar)
	if err != nil {
		return &Error{Host: c.host, Err: err}
	}
	req.Header.Set("Content-Type", "application/x-tar")
	res, err := c.http.Do(req)
	if err != nil {
		return c.loadError(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &Error{Host: c.host, Err: fmt.Errorf("load: %s", errorText(res))}
	}
	return c.readProgress(res.Body)
}

// loadError explains an error of the transfer: of the connection, which may have ended, or of the tar's source.
func (c *Client) loadError(err error) error {
	var op *net.OpError
	lost := errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
	if !lost && !errors.Is(err, syscall.EPIPE) {
		return &Error{Host: c.host, Err: fmt.Errorf("load: %w", err)}
	}
	err = fmt.Errorf("load: connection lost: %w; see the engine's log, and try again", err)
	return &Error{Host: c.host, Err: err, Unreachable: true}
}

// errorText returns the engine's message, a JSON field of the body, or else the status and the start of the body.
func errorText(res *http.Response) string {
	var m struct{ Message string }
	b, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if json.Unmarshal(b, &m) == nil && m.Message != "" {
		return m.Message
	}
	return res.Status + " " + string(bytes.TrimSpace(b[:min(len(b), 500)]))
}

// readProgress reads the engine's progress stream to its end and returns the error that the stream reports, if any: the
// status is 200 even when the load fails.
func (c *Client) readProgress(body io.Reader) error {
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
			return c.loadError(err)
		}
		if text := m.ErrorDetail.Message + m.Error; text != "" {
			if m.ErrorDetail.Message != "" {
				text = m.ErrorDetail.Message
			}
			return &Error{Host: c.host, Err: errors.New("load: " + strings.TrimSpace(text))}
		}
	}
}
