package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxInfo bounds an answer that Probe reads, in bytes.
const maxInfo = 4 << 20

// Engine describes a Docker engine.
type Engine struct {
	Host    string // address
	Version string
	// Containerd reports that the engine keeps images in containerd's store, not in its classic one.
	Containerd bool
}

// Probe finds the engine as Dial does, and asks what it is. env looks up a variable. configured reports that a variable
// or a docker context names the engine, or that its default socket exists: otherwise an error is no surprise. The error
// is an *Error.
func Probe(ctx context.Context, env func(string) string) (e Engine, configured bool, err error) {
	c, err := find("", env)
	if err != nil {
		return Engine{}, true, err
	}
	e.Host = c.host
	if c.host == defaultHost {
		_, err := os.Lstat(strings.TrimPrefix(defaultHost, "unix://"))
		configured = err == nil || env("DOCKER_HOST") != ""
	} else {
		configured = true
	}
	var version struct{ Version string }
	var info struct{ DriverStatus [][2]string }
	if err := c.read(ctx, "/version", &version); err != nil {
		return e, configured, err
	}
	e.Version = version.Version
	if err := c.read(ctx, "/info", &info); err != nil {
		return e, configured, err
	}
	for _, pair := range info.DriverStatus {
		if pair[0] == "driver-type" && strings.HasPrefix(pair[1], "io.containerd.snapshotter") {
			e.Containerd = true
		}
	}
	return e, configured, nil
}

// read reads an answer in JSON.
func (c *Client) read(ctx context.Context, path string, to any) error {
	res, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxInfo+1))
	switch {
	case err != nil:
		err = c.unreachable(err)
	case len(raw) > maxInfo:
		err = errors.New("the answer is too large")
	default:
		err = json.Unmarshal(raw, to)
	}
	if err != nil {
		return &Error{Host: c.host, Err: fmt.Errorf("read %s: %w", path, err), Unreachable: true}
	}
	return nil
}
