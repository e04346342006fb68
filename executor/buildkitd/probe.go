package buildkitd

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
)

// Daemon describes a daemon that answered.
type Daemon struct {
	Version   string   // "" if it does not say
	Platforms []string // of its workers
}

// Probe connects to a daemon and asks what it is, until ctx ends. The error is an *Error.
func Probe(ctx context.Context, address string) (Daemon, error) {
	c, err := Dial(ctx, address)
	if err != nil {
		return Daemon{}, &Error{Builder: address, Err: err}
	}
	defer c.Close()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return Daemon{}, &Error{Builder: address, Err: fmt.Errorf("cannot connect: %w", unreachable(err))}
	}
	var d Daemon
	for _, w := range workers {
		for _, p := range w.Platforms {
			// A worker lists the levels of its processor as variants of amd64.
			if name := platforms.Format(p); p.Architecture != "amd64" || p.Variant == "" {
				d.Platforms = append(d.Platforms, name)
			}
		}
	}
	if info, err := c.Info(ctx); err == nil { // daemons before 0.12 do not have it
		d.Version = info.BuildkitVersion.Version
	}
	slices.Sort(d.Platforms)
	d.Platforms = slices.Compact(d.Platforms)
	return d, nil
}
