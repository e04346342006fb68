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

// frontEndOptions are the options of the front end that a target's plain attributes ask for; contexts are added by
// addContexts. Options that enter ops are the same for the same target on every machine.
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
		return nil, p.targetError(t, "network", fmt.Errorf("network %q is unknown: use default, none or host", t.Network))
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

// set leaves an option out when it is empty.
func set(opts map[string]string, key, value string) {
	if value != "" {
		opts[key] = value
	}
}

// limits sets shm-size, ulimits and resources.
func (p *plan) limits(t *config.Target, opts map[string]string) error {
	if t.ShmSize != "" {
		n, err := units.RAMInBytes(t.ShmSize)
		if err != nil || n < 0 {
			return p.targetError(t, "shm-size", fmt.Errorf("shm-size %q is not a size such as 128m", t.ShmSize))
		}
		opts["shm-size"] = strconv.FormatInt(n, 10)
	}
	for _, u := range t.Ulimits {
		if _, err := units.ParseUlimit(u); err != nil {
			return p.targetError(t, "ulimits", fmt.Errorf("ulimit %q is not like nofile=1024:2048: %w", u, err))
		}
	}
	set(opts, "ulimit", strings.Join(t.Ulimits, ","))
	for _, key := range slices.Sorted(maps.Keys(t.Resources)) {
		value := t.Resources[key]
		if (key == "memory" || key == "memory-swap") && value != "-1" {
			n, err := units.RAMInBytes(value)
			if err != nil {
				return p.targetError(t, "resources", fmt.Errorf("%s %q is not a size such as 512m", key, value))
			}
			value = strconv.FormatInt(n, 10)
		}
		name, ok := resourceOption(key)
		if !ok {
			return p.targetError(t, "resources", fmt.Errorf("resource %q is unknown", key))
		}
		set(opts, name, value)
	}
	return nil
}

// resourceOption is the front end's name of a resource.
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

// extraHosts gives the hosts in the front end's form; one name may have several addresses, separated by commas.
func extraHosts(hosts map[string]string) (string, error) {
	var fields []string
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		for _, ip := range strings.Split(hosts[name], ",") {
			if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
				ip = ip[1 : len(ip)-1]
			}
			if net.ParseIP(ip) == nil {
				return "", fmt.Errorf("extra host %s: %q is not an IP address", name, ip)
			}
			fields = append(fields, name+"="+ip)
		}
	}
	return strings.Join(fields, ","), nil
}
