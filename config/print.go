package config

import (
	"bytes"
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// printedTarget is a target in the JSON of --print. The fields are in the order of Docker Bake.
type printedTarget struct {
	Description      string            `json:"description,omitempty"`
	Annotations      []string          `json:"annotations,omitempty"`
	Attest           []map[string]any  `json:"attest,omitempty"`
	Context          string            `json:"context,omitempty"`
	Contexts         map[string]string `json:"contexts,omitempty"`
	Dockerfile       string            `json:"dockerfile,omitempty"`
	DockerfileInline *string           `json:"dockerfile-inline,omitempty"`
	Args             map[string]string `json:"args,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
	Tags             []string          `json:"tags,omitempty"`
	CacheFrom        []Attrs           `json:"cache-from,omitempty"`
	CacheTo          []Attrs           `json:"cache-to,omitempty"`
	Target           *string           `json:"target,omitempty"`
	Secret           []Attrs           `json:"secret,omitempty"`
	SSH              []printedSSH      `json:"ssh,omitempty"`
	Platforms        []string          `json:"platforms,omitempty"`
	Output           []Attrs           `json:"output,omitempty"`
	Pull             *bool             `json:"pull,omitempty"`
	NoCache          *bool             `json:"no-cache,omitempty"`
	Network          *string           `json:"network,omitempty"`
	NoCacheFilter    []string          `json:"no-cache-filter,omitempty"`
	ShmSize          string            `json:"shm-size,omitempty"`
	Ulimits          []string          `json:"ulimits,omitempty"`
	Resources        any               `json:"resources,omitempty"`
	Call             *string           `json:"call,omitempty"`
	Entitlements     []string          `json:"entitlements,omitempty"`
	ExtraHosts       map[string]string `json:"extra-hosts,omitempty"`
	Policy           []Attrs           `json:"policy,omitempty"`
	Test             []map[string]any  `json:"test,omitempty"`
}

type printedSSH struct {
	ID    string   `json:"id"`
	Paths []string `json:"paths,omitempty"`
}

type printedGroup struct {
	Description string   `json:"description,omitempty"`
	Targets     []string `json:"targets"`
}

// Print returns a project as JSON in the format of docker buildx bake --print. The result is a valid project file.
func Print(p *Project) ([]byte, error) {
	first := printedGroup{Targets: append([]string{}, slices.Sorted(slices.Values(p.RequestedNames))...)}
	if g := p.Groups["default"]; g != nil {
		first.Description = g.Description
	}
	groups := map[string]printedGroup{"default": first}
	p.addGroups(groups, p.RequestedNames)
	targets := map[string]printedTarget{}
	for name, t := range p.Targets {
		targets[name] = t.printed()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Group  map[string]printedGroup  `json:"group,omitempty"`
		Target map[string]printedTarget `json:"target"`
	}{groups, targets})
	return b.Bytes(), err
}

// addGroups adds the groups in names, and their member groups, to all.
func (p *Project) addGroups(all map[string]printedGroup, names []string) {
	for _, name := range names {
		g := p.Groups[name]
		if _, done := all[name]; done || g == nil {
			continue
		}
		all[name] = printedGroup{g.Description, append([]string{}, g.Targets...)}
		p.addGroups(all, g.Targets)
	}
}

func (t *Target) printed() printedTarget {
	out := printedTarget{
		Description: t.Description, Annotations: escaped(t.Annotations), Attest: printedAttest(t.Attest),
		Context: t.Context, Contexts: t.Contexts,
		Dockerfile: t.Dockerfile, Args: escapedMap(t.Args), Labels: escapedMap(t.Labels), Tags: t.Tags,
		CacheFrom: t.CacheFrom, CacheTo: t.CacheTo, Target: t.explicit("target",
			t.Stage), Platforms: t.Platforms, Output: t.Outputs,
		Pull: t.Pull, NoCache: t.NoCache, Network: t.explicit("network",
			t.Network), NoCacheFilter: t.NoCacheFilter, ShmSize: t.ShmSize,
		Ulimits: t.Ulimits, Call: t.explicit("call", t.Call), Entitlements: t.Entitlements,
		ExtraHosts: escapedMap(t.ExtraHosts), Policy: t.Policy,
	}
	if t.DockerfileInline != nil {
		text := escape(*t.DockerfileInline)
		out.DockerfileInline = &text
	}
	if t.Resources != nil {
		out.Resources = printedResources(t.Resources)
	}
	for _, s := range t.Secrets {
		out.Secret = append(out.Secret, s.printed())
	}
	for _, one := range t.Tests {
		out.Test = append(out.Test, one.printed())
	}
	for _, s := range t.SSH {
		out.SSH = append(out.SSH, printedSSH(s))
	}
	return out
}

// printed returns the sources that the project file names.
func (s Secret) printed() Attrs {
	m := Attrs{"id": s.ID}
	if s.Src != "" && !s.Implied {
		m["src"] = s.Src
	}
	if s.Env != "" && !s.Implied {
		m["env"] = s.Env
	}
	return m
}

// explicit returns nil for an empty value, unless the attribute was written.
func (t *Target) explicit(name, value string) *string {
	if _, written := t.Ranges[name]; value == "" && !written {
		return nil
	}
	return &value
}

// printedAttest returns attestations with "disabled" as a bool if it is true, and without it if it is false.
func printedAttest(all []Attrs) []map[string]any {
	var out []map[string]any
	for _, m := range all {
		one := map[string]any{}
		for key, value := range m {
			b, err := strconv.ParseBool(value)
			switch {
			case key != "disabled" || err != nil:
				one[key] = value
			case b:
				one[key] = b
			}
		}
		out = append(out, one)
	}
	return out
}

// printedResources returns resources with the cpu- limits as numbers.
func printedResources(m map[string]string) map[string]any {
	out := map[string]any{}
	for key, value := range m {
		out[key] = value
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && strings.HasPrefix(key, "cpu-") {
			out[key] = n
		}
	}
	return out
}

// cleanContext returns a cleaned path; URLs stay as they are.
func cleanContext(c string) string {
	switch {
	case c == "":
		return "."
	case strings.Contains(c, "://"), strings.HasPrefix(c, "git@"):
		return c
	}
	return path.Clean(c)
}

// escape escapes template sequences, so that reading the printed JSON gives s again.
func escape(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(s)
}

func escaped(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = escape(s)
	}
	return out
}

func escapedMap(m map[string]string) map[string]string {
	out := maps.Clone(m)
	for key, s := range out {
		out[key] = escape(s)
	}
	return out
}
