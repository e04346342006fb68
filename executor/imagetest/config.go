package imagetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bakebuild/bake/planner"
)

// CheckConfig compares an image's config with its test. A difference is an *Error.
func CheckConfig(t *planner.Test) error {
	var d differences
	w, c := t.Config, t.Image
	d.value("user", w.User, c.User)
	d.value("workdir", w.Workdir, c.WorkingDir)
	d.list("entrypoint", w.Entrypoint, c.Entrypoint)
	d.list("cmd", w.Cmd, c.Cmd)
	env := map[string]string{}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	d.pairs("env", w.Env, w.EnvMatches, env)
	absent(&d, "env", w.NoEnv, env)
	d.pairs("label", w.Labels, w.LabelMatches, c.Labels)
	d.present("port", ports(w.Ports), c.ExposedPorts)
	absent(&d, "port", ports(w.NoPorts), c.ExposedPorts)
	d.present("volume", w.Volumes, c.Volumes)
	absent(&d, "volume", w.NoVolumes, c.Volumes)
	return d.err()
}

// ports returns a list in which each port has a protocol: tcp unless it is given.
func ports(list []string) []string {
	out := slices.Clone(list)
	for i, p := range out {
		if !strings.Contains(p, "/") {
			out[i] = p + "/tcp"
		}
	}
	return out
}

// value compares a field unless the test leaves it out.
func (d *differences) value(what string, want *string, got string) {
	if want != nil && *want != got {
		d.add(what, shown(*want), shown(got))
	}
}

// list compares a command line unless the test leaves it out.
func (d *differences) list(what string, want, got []string) {
	if want != nil && !slices.Equal(want, got) {
		d.add(what, fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
	}
}

// pairs compares variables or labels: exact values, then expressions, each in the order of names.
func (d *differences) pairs(what string, want, expressions, got map[string]string) {
	check := func(name, as string, ok func(string) bool) {
		value, set := got[name]
		switch {
		case !set:
			d.add(what+" "+name, as, "none")
		case !ok(value):
			d.add(what+" "+name, as, shown(value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		check(name, shown(want[name]), func(v string) bool { return v == want[name] })
	}
	for _, name := range slices.Sorted(maps.Keys(expressions)) {
		e := expressions[name]
		check(name, "a match of "+shown(e), func(v string) bool { return matches(e, v) })
	}
}

// present requires names.
func (d *differences) present(what string, want []string, got map[string]struct{}) {
	for _, name := range want {
		if _, ok := got[name]; !ok {
			d.add(what, name, fmt.Sprintf("%q", slices.Sorted(maps.Keys(got))))
		}
	}
}

// absent excludes names.
func absent[V any](d *differences, what string, excluded []string, got map[string]V) {
	for _, name := range excluded {
		if _, ok := got[name]; ok {
			d.add(what+" "+name, "none", "one")
		}
	}
}
