package planner

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/bakebuild/bake/config"
)

// frontEndOptions returns the frontend's options for the plain attributes of a target. Contexts are added by
// addContexts. Options that end up in ops must not depend on the machine, because steps are identified by their ops.
func (p *plan) frontEndOptions(t *config.Target, platforms string) (map[string]string, error) {
	opts := map[string]string{"platform": platforms}
	for k, v := range t.Args {
		opts["build-arg:"+k] = v
	}
	for k, v := range t.Labels {
		opts["label:"+k] = v
	}
	set(opts, "target", t.Stage)
	switch {
	case p.opts.NoCache || (t.NoCache != nil && *t.NoCache):
		opts["no-cache"] = ""
	case len(t.NoCacheFilter) > 0:
		opts["no-cache"] = strings.Join(t.NoCacheFilter, ",")
	}
	switch t.Network {
	case "", "default":
	case "none", "host":
		opts["force-network-mode"] = t.Network
	default:
		return nil, p.targetError(t, "network", fmt.Errorf("unknown network %q; use default, none or host", t.Network))
	}
	if err := p.limits(t, opts); err != nil {
		return nil, err
	}
	hosts, err := extraHosts(t.ExtraHosts)
	if err != nil {
		return nil, p.targetError(t, "extra-hosts", err)
	}
	set(opts, "add-hosts", hosts)
	return opts, nil
}

// set sets an option unless its value is empty.
func set(opts map[string]string, key, value string) {
	if value != "" {
		opts[key] = value
	}
}

// limits sets the options for shm-size, ulimits and resources.
func (p *plan) limits(t *config.Target, opts map[string]string) error {
	if t.ShmSize != "" {
		n, err := units.RAMInBytes(t.ShmSize)
		if err != nil || n < 0 {
			return p.targetError(t, "shm-size", fmt.Errorf("invalid shm-size %q; use a size such as 128m", t.ShmSize))
		}
		opts["shm-size"] = strconv.FormatInt(n, 10)
	}
	for _, u := range t.Ulimits {
		if _, err := units.ParseUlimit(u); err != nil {
			return p.targetError(t, "ulimits", fmt.Errorf("invalid ulimit %q: %w; expected a value such as "+
				"nofile=1024:2048", u, err))
		}
	}
	set(opts, "ulimit", strings.Join(t.Ulimits, ","))
	for _, key := range slices.Sorted(maps.Keys(t.Resources)) {
		value := t.Resources[key]
		if (key == "memory" || key == "memory-swap") && value != "-1" {
			n, err := units.RAMInBytes(value)
			if err != nil {
				return p.targetError(t, "resources", fmt.Errorf("invalid %s %q; use a size such as 512m", key, value))
			}
			value = strconv.FormatInt(n, 10)
		}
		name, ok := resourceOption(key)
		if !ok {
			return p.targetError(t, "resources", fmt.Errorf("unknown resource %q; use memory, memory-swap, "+
				"cpu-shares, cpu-period, cpu-quota, cpuset-cpus or cpuset-mems", key))
		}
		set(opts, name, value)
	}
	return nil
}

// resourceOption returns the frontend's name of a resource, and whether the resource is known.
func resourceOption(key string) (string, bool) {
	switch key {
	case "memory":
		return "memory", true
	case "memory-swap":
		return "memswap", true
	case "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems":
		return strings.ReplaceAll(key, "-", ""), true
	}
	return "", false
}

// extraHosts encodes hosts for the frontend: NAME=IP, separated by commas. A name may have several addresses, also
// separated by commas.
func extraHosts(hosts map[string]string) (string, error) {
	var fields []string
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		for _, ip := range strings.Split(hosts[name], ",") {
			if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
				ip = ip[1 : len(ip)-1]
			}
			if net.ParseIP(ip) == nil {
				return "", fmt.Errorf("extra host %s: invalid IP address %q", name, ip)
			}
			fields = append(fields, name+"="+ip)
		}
	}
	return strings.Join(fields, ","), nil
}
