package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	units "github.com/docker/go-units"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// composeReader turns services into targets.
type composeReader struct {
	project  *types.Project
	files    []*document
	doc      *document
	home     string
	warnings hcl.Diagnostics
}

// target makes the block that a service stands for.
func (c *composeReader) target(s types.ServiceConfig) (*block, hcl.Diagnostics) {
	b := &block{
		kind: "target", label: strings.ReplaceAll(s.Name, ".", "_"), at: c.at("services", s.Name), attrs: hcl.Attributes{}, file: c.doc,
	}
	values := c.texts(s)
	for name, list := range map[string][]string{
		"tags": s.Build.Tags, "platforms": s.Build.Platforms, "cache-from": s.Build.CacheFrom, "cache-to": s.Build.CacheTo,
		"ulimits": ulimits(s.Build), "attest": attestations(s.Build),
	} {
		if len(list) > 0 {
			values[name] = stringTuple(list)
		}
	}
	if s.Build.NoCache {
		values["no-cache"] = cty.True
	}
	if s.Build.Pull {
		values["pull"] = cty.True
	}
	ssh := sshKeys(s.Build)
	secrets, diags := c.secrets(s)
	diags = append(diags, c.extend(s, values, &secrets, &ssh)...)
	if _, ok := values["tags"]; !ok && s.Image != "" {
		values["tags"] = stringTuple([]string{s.Image})
	}
	if len(secrets) > 0 {
		values["secret"] = cty.TupleVal(secrets)
	}
	slices.SortStableFunc(ssh, func(a, b cty.Value) int { return strings.Compare(sshOrder(a), sshOrder(b)) })
	if len(ssh) > 0 {
		values["ssh"] = cty.TupleVal(ssh)
	}
	for name, v := range values {
		at := c.at("services", s.Name, "build", strings.ReplaceAll(name, "-", "_"))
		b.attrs[name] = &hcl.Attribute{Name: name, Expr: hcl.StaticExpr(v, at), NameRange: at, Range: at}
	}
	return b, diags
}

// texts are the attributes that are strings or maps of strings.
func (c *composeReader) texts(s types.ServiceConfig) map[string]cty.Value {
	shm := ""
	if s.Build.ShmSize > 0 {
		shm = units.BytesSize(float64(s.Build.ShmSize))
	}
	values := map[string]cty.Value{}
	for name, text := range map[string]string{
		"context": c.path(s.Build.Context), "dockerfile": s.Build.Dockerfile, "dockerfile-inline": s.Build.DockerfileInline,
		"target": s.Build.Target, "network": s.Build.Network, "shm-size": shm,
	} {
		if text != "" {
			values[name] = cty.StringVal(text)
		}
	}
	args := s.Build.Args.Resolve(func(name string) (string, bool) {
		if v, ok := s.Environment[name]; ok && v != nil {
			return *v, true
		}
		v, ok := c.project.Environment[name]
		return v, ok
	})
	set := map[string]string{}
	for name, v := range args {
		if v != nil {
			set[name] = *v
		}
	}
	hosts := map[string]string{}
	for name, addresses := range s.Build.ExtraHosts {
		hosts[name] = strings.Join(addresses, ",")
	}
	for name, m := range map[string]map[string]string{
		"args": set, "labels": s.Build.Labels, "extra-hosts": hosts, "contexts": c.additional(s),
	} {
		if len(m) > 0 {
			values[name] = stringMap(m)
		}
	}
	return values
}

// path is a path as compose resolves it, relative to the project's directory.
func (c *composeReader) path(p string) string {
	if p == "" || strings.Contains(p, "://") || strings.HasPrefix(p, "git@") || strings.HasPrefix(p, "github.com/") {
		return p
	}
	if rest, ok := strings.CutPrefix(p, "~"); ok && c.home != "" {
		return filepath.Join(c.home, rest)
	}
	return filepath.Clean(p)
}

// additional are the contexts that compose itself knows.
func (c *composeReader) additional(s types.ServiceConfig) map[string]string {
	all := c.contexts(s.Build.AdditionalContexts)
	for name, value := range all {
		if !strings.HasPrefix(value, "target:") {
			all[name] = c.path(value)
		}
	}
	return all
}

func (c *composeReader) contexts(all map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range all {
		service, isService := strings.CutPrefix(value, "service:")
		if !isService {
			service, isService = strings.CutPrefix(value, "target:")
		}
		if isService {
			value = "target:" + strings.ReplaceAll(service, ".", "_")
		}
		out[name] = value
	}
	return out
}

func (c *composeReader) secrets(s types.ServiceConfig) ([]cty.Value, hcl.Diagnostics) {
	var all []cty.Value
	for _, used := range s.Build.Secrets {
		secret := c.project.Secrets[used.Source]
		if secret.External {
			at := c.at("secrets", used.Source)
			return nil, hcl.Diagnostics{problem(&at, "service %s uses the external secret %q, which nothing here can look up: give it a file or an environment variable", s.Name, used.Source)}
		}
		all = append(all, stringMap(map[string]string{"id": used.Source, "src": c.path(secret.File), "env": secret.Environment}))
	}
	return all, nil
}

func sshKeys(b *types.BuildConfig) []cty.Value {
	var all []cty.Value
	for _, key := range b.SSH {
		all = append(all, cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(key.ID), "paths": cty.StringVal(key.Path)}))
	}
	return all
}

// sshOrder is by what ssh entries are sorted: their id, then their paths.
func sshOrder(v cty.Value) string {
	if v.Type() == cty.String {
		id, paths, _ := strings.Cut(v.AsString(), "=")
		return id + "\x00" + paths
	}
	return v.GetAttr("id").AsString() + "\x00" + v.GetAttr("paths").AsString()
}

func ulimits(b *types.BuildConfig) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(b.Ulimits)) {
		u := b.Ulimits[name]
		soft, hard := u.Soft, u.Hard
		if u.Single != 0 {
			soft, hard = u.Single, u.Single
		}
		all = append(all, fmt.Sprintf("%s=%d:%d", name, soft, hard))
	}
	return all
}

func attestations(b *types.BuildConfig) []string {
	var all []string
	for _, a := range []struct{ kind, value string }{{"sbom", b.SBOM}, {"provenance", b.Provenance}} {
		if a.value != "" {
			all = append(all, Attestation(a.kind, a.value))
		}
	}
	return all
}

// Attestation is the value of --sbom, --provenance and their like in compose as an attestation.
func Attestation(kind, value string) string {
	if on, err := strconv.ParseBool(value); err == nil {
		return fmt.Sprintf("type=%s,disabled=%t", kind, !on)
	}
	return "type=" + kind + "," + value
}

// extend takes over what x-bake says.
func (c *composeReader) extend(s types.ServiceConfig, values map[string]cty.Value, secrets, ssh *[]cty.Value) hcl.Diagnostics {
	more, ok := s.Build.Extensions["x-bake"].(map[string]any)
	if !ok {
		return nil
	}
	var diags hcl.Diagnostics
	for _, key := range slices.Sorted(maps.Keys(more)) {
		at := c.at("services", s.Name, "build", "x-bake", key)
		v := more[key]
		switch key {
		case "tags", "platforms", "cache-from", "cache-to", "no-cache-filter", "output", "secret", "ssh":
			list, err := fields(v)
			if err != nil {
				diags = append(diags, problem(&at, "x-bake: %s: %v", key, err))
				continue
			}
			items := stringTuple(list).AsValueSlice()
			switch key {
			case "secret":
				*secrets = append(*secrets, items...)
			case "ssh":
				*ssh = append(*ssh, items...)
			default:
				if old, ok := values[key]; ok {
					items = append(old.AsValueSlice(), items...)
				}
				values[key] = cty.TupleVal(items)
			}
		case "pull", "no-cache":
			on, ok := v.(bool)
			if !ok {
				diags = append(diags, problem(&at, "x-bake: %s: true or false is expected, found %v", key, v))
				continue
			}
			values[key] = cty.BoolVal(on)
		case "contexts":
			m, ok := v.(map[string]any)
			if !ok {
				diags = append(diags, problem(&at, "x-bake: contexts: a mapping is expected"))
				continue
			}
			all := map[string]string{}
			for name, value := range m {
				all[name] = fmt.Sprint(value)
			}
			all = c.contexts(all)
			maps.Copy(all, c.additional(s))
			values["contexts"] = stringMap(all)
		default:
			known := []string{"tags", "cache-from", "cache-to", "secret", "ssh", "platforms", "output", "pull", "no-cache", "no-cache-filter", "contexts"}
			d := problem(&at, "x-bake has no attribute %q%s", key, nearest(key, known))
			d.Severity = hcl.DiagWarning
			c.warnings = append(c.warnings, d)
		}
	}
	return diags
}

// fields is a list of strings, or one that is split at blanks.
func fields(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return strings.Fields(v), nil
	case []any:
		var all []string
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, fmt.Errorf("a string is expected, found %v", one)
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, fmt.Errorf("a list of strings is expected, found %v", v)
}

func stringTuple(all []string) cty.Value {
	values := make([]cty.Value, len(all))
	for i, s := range all {
		values[i] = cty.StringVal(s)
	}
	return cty.TupleVal(values)
}

// at is where a path of keys is written, as far as it is; in the last file that has it.
func (c *composeReader) at(path ...string) hcl.Range {
	best := hcl.Range{Filename: c.doc.name, Start: hcl.InitialPos, End: hcl.InitialPos}
	depth := 0
	for _, f := range c.files {
		if at, n := f.placeOf(path); at != nil && n >= depth {
			best, depth = *at, n
		}
	}
	return best
}
