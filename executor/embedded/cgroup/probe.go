package cgroup

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/cgroups"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// Check creates a group with the given limits, without a process, and removes it. unified reports whether the machine
// has cgroups of version 2 only.
func (g *Groups) Check(limits sandbox.Limits) (unified bool, err error) {
	unified = cgroups.IsCgroup2UnifiedMode()
	r, needed := resources(limits), controllers(limits)
	m, err := g.newManager(r, needed)
	if err != nil {
		return unified, err
	}
	if err = m.Apply(-1); err != nil { // creates the group without a process
		err = fmt.Errorf("create a cgroup for %s: %w", strings.Join(needed, ", "), err)
	} else if err = m.Set(r); err != nil {
		err = fmt.Errorf("set limits: %w", err)
	}
	return unified, errors.Join(err, m.Destroy())
}
