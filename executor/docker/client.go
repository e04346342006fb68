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
	"time"
)

// pingTimeout bounds how long an engine may take to answer a ping.
const pingTimeout = 10 * time.Second

// Error reports that a Docker engine cannot be reached or did not load an image.
type Error struct {
	Host string // address of the engine
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("docker engine at %s: %v", e.Host, e.Err) }

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
	host, certs, err := findHost(name, os.Getenv)
	if err != nil {
		return nil, err
	}
	c, err := newClient(host, certs)
	if err != nil {
		return nil, &Error{Host: host, Err: err}
	}
	return c, c.ping(ctx)
}

func newClient(host, certs string) (*Client, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, err
	}
	c := &Client{host: host, base: "http://docker"}
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/_ping", nil)
	if err != nil {
		return &Error{c.host, err}
	}
	res, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return &Error{c.host, fmt.Errorf("cannot connect: %w; start it, or set DOCKER_HOST", err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &Error{c.host, fmt.Errorf("ping: status %s", res.Status)}
	}
	return nil
}

// Load streams a tar of images to the engine. Engines with the classic store read its manifest.json, those with
// containerd's store read its OCI index.
func (c *Client) Load(ctx context.Context, tar io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/images/load?quiet=1", tar)
	if err != nil {
		return &Error{c.host, err}
	}
	req.Header.Set("Content-Type", "application/x-tar")
	res, err := c.http.Do(req)
	if err != nil {
		return &Error{c.host, fmt.Errorf("load: %w", err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &Error{c.host, fmt.Errorf("load: %s", errorText(res))}
	}
	return c.readProgress(res.Body)
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
			return &Error{c.host, fmt.Errorf("load: read answer: %w", err)}
		}
		if text := m.ErrorDetail.Message + m.Error; text != "" {
			if m.ErrorDetail.Message != "" {
				text = m.ErrorDetail.Message
			}
			return &Error{c.host, errors.New("load: " + strings.TrimSpace(text))}
		}
	}
}
