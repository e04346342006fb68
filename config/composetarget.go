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

// composeReader converts services to targets.
type composeReader struct {
	project  *types.Project
	files    []*document
	doc      *document
	home     string
	warnings hcl.Diagnostics
}

// targetValues holds the attributes of the target of a service, by name.
type targetValues map[string]cty.Value

// target returns the target block for a service.
func (c *composeReader) target(s types.ServiceConfig) (*block, hcl.Diagnostics) {
	values := c.texts(s)
	addLists(values, s.Build)
	values.add("ssh", c.sshKeys(s.Build))
	secrets, diags := c.secrets(s)
	values.add("secret", secrets)
	diags = append(diags, c.extend(s, values)...)
	if _, ok := values["tags"]; !ok && s.Image != "" {
		values["tags"] = stringTuple([]string{s.Image})
	}
	if ssh, ok := values["ssh"]; ok {
		keys := ssh.AsValueSlice()
		slices.SortStableFunc(keys, func(a, b cty.Value) int { return strings.Compare(sshOrder(a), sshOrder(b)) })
		values["ssh"] = cty.TupleVal(keys)
	}
	b := &block{
		kind: "target", label: strings.ReplaceAll(s.Name, ".", "_"), at: c.at("services", s.Name),
		attrs: hcl.Attributes{}, file: c.doc,
	}
	for name, v := range values {
		at := c.at("services", s.Name, "build", composeKey(name))
		if more, _ := s.Build.Extensions["x-bake"].(map[string]any); more[name] != nil {
			at = c.at("services", s.Name, "build", "x-bake", name)
		}
		b.attrs[name] = &hcl.Attribute{Name: name, Expr: hcl.StaticExpr(v, at), NameRange: at, Range: at}
	}
	return b, diags
}

// composeKey returns the key of an attribute in a build section.
func composeKey(attribute string) string {
	switch attribute {
	case "secret":
		return "secrets"
	case "attest":
		return "provenance"
	case "contexts":
		return "additional_contexts"
	}
	return strings.ReplaceAll(attribute, "-", "_")
}

// add appends items to the attribute.
func (a targetValues) add(name string, items []cty.Value) {
	if len(items) == 0 {
		return
	}
	if old, ok := a[name]; ok {
		items = append(old.AsValueSlice(), items...)
	}
	a[name] = cty.TupleVal(items)
}

// addLists adds the attributes that are lists of strings or bools.
func addLists(values targetValues, b *types.BuildConfig) {
	for name, list := range map[string][]string{
		"tags": b.Tags, "platforms": b.Platforms, "cache-from": b.CacheFrom, "cache-to": b.CacheTo,
		"ulimits": ulimits(b), "attest": attestations(b),
	} {
		if len(list) > 0 {
			values[name] = stringTuple(list)
		}
	}
	for name, on := range map[string]bool{"no-cache": b.NoCache, "pull": b.Pull} {
		if on {
			values[name] = cty.True
		}
	}
}

// texts returns the attributes that are strings or maps of strings.
func (c *composeReader) texts(s types.ServiceConfig) targetValues {
	shm := ""
	if s.Build.ShmSize > 0 {
		shm = units.BytesSize(float64(s.Build.ShmSize))
	}
	values := targetValues{}
	for name, text := range map[string]string{
		"context": c.path(s.Build.Context), "dockerfile": s.Build.Dockerfile,
		"dockerfile-inline": s.Build.DockerfileInline,
		"target":            s.Build.Target, "network": s.Build.Network, "shm-size": shm,
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

// path returns a path as compose resolves it, relative to the directory of the project.
func (c *composeReader) path(p string) string {
	if p == "" || strings.Contains(p, "://") || strings.HasPrefix(p, "git@") || strings.HasPrefix(p, "github.com/") {
		return p
	}
	if rest, ok := strings.CutPrefix(p, "~"); ok && c.home != "" {
		return filepath.Join(c.home, rest)
	}
	return filepath.Clean(p)
}

// additional returns the additional_contexts of a service.
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
			return nil, hcl.Diagnostics{problem(&at, "service %s uses external secret %q, which is not supported; "+
				"give it a file or an environment variable", s.Name, used.Source)}
		}
		all = append(all, stringMap(map[string]string{"id": used.Source, "src": c.path(secret.File),
			"env": secret.Environment}))
	}
	return all, nil
}

func (c *composeReader) sshKeys(b *types.BuildConfig) []cty.Value {
	var all []cty.Value
	for _, key := range b.SSH {
		paths := cty.ListValEmpty(cty.String)
		if key.Path != "" {
			paths = cty.ListVal([]cty.Value{cty.StringVal(c.path(key.Path))})
		}
		all = append(all, cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(key.ID), "paths": paths}))
	}
	return all
}

// sshOrder returns the sort key of an ssh entry: its ID, then its paths.
func sshOrder(v cty.Value) string {
	if v.Type() == cty.String {
		id, paths, _ := strings.Cut(v.AsString(), "=")
		return id + "\x00" + paths
	}
	order := v.GetAttr("id").AsString() + "\x00"
	for _, p := range v.GetAttr("paths").AsValueSlice() {
		order += p.AsString()
	}
	return order
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

// Attestation returns the attest entry for the value of --sbom, --provenance or their equivalents in compose.
func Attestation(kind, value string) string {
	if on, err := strconv.ParseBool(value); err == nil {
		return fmt.Sprintf("type=%s,disabled=%t", kind, !on)
	}
	return "type=" + kind + "," + value
}

func stringTuple(all []string) cty.Value {
	values := make([]cty.Value, len(all))
	for i, s := range all {
		values[i] = cty.StringVal(s)
	}
	return cty.TupleVal(values)
}

// at returns the position of the longest existing prefix of a path of keys, in the last file that has it.
func (c *composeReader) at(path ...string) hcl.Range {
	best := hcl.Range{Filename: c.doc.name, Start: hcl.InitialPos, End: hcl.InitialPos}
	depth := 0
	for _, f := range c.files {
		if at, n := f.keyRange(path); at != nil && n >= depth {
			best, depth = *at, n
		}
	}
	return best
}
