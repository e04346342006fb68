package planner_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// layoutFiles returns an OCI layout of one image in the directory images, and the digest of its manifest.
func layoutFiles() (files map[string]string, manifest digest.Digest) {
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`
	raw := fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":%q,"size":%d},"layers":[]}`, digest.FromString(config),
		len(config))
	manifest = digest.FromString(raw)
	return map[string]string{
		"images/oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"images/index.json": fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"size":%d}]}`, manifest,
			len(raw)),
		"images/blobs/sha256/" + digest.FromString(config).Encoded(): config,
		"images/blobs/sha256/" + manifest.Encoded():                  raw,
	}, manifest
}

const commit = "0123456789012345678901234567890123456789"

// sourcesProject returns a project with every kind of source.
func sourcesProject(sum digest.Digest) string {
	return `
policy "all" { rule = "false" }
target "default" {
  contexts = {
    layout = "oci-layout://images"
    image  = "docker-image://quay.io/x/y:1"
    repo   = "https://user:hunter22@git.example.com:8443/a/b.git#main"
    files  = "https://example.com/x.tar.gz?token=hunter22"
    linked = "target:linked"
  }
  cache-from        = ["cache.example.com/c", "type=local,src=cache"]
  dockerfile-inline = <<EOT
# syntax=docker/dockerfile:1
FROM golang:1.26 AS go
FROM layout
COPY --from=go / /
ADD https://example.com/tool.tgz https://other.example.com/pinned.tgz /
ADD --checksum=` + sum.String() + ` https://example.com/sum.tgz /
ADD https://github.com/acme/proto.git#` + commit + `:sub /p
ADD git@github.com:acme/q.git#v1 /q
COPY --from=image / /
COPY --from=debian:13@sha256:` + strings.Repeat("0", 64) + ` / /
COPY --from=repo / /
COPY --from=files / /
COPY --from=linked / /
RUN --mount=type=bind,from=ghcr.io/acme/run:1,target=/r true
EOT
}
target "linked" {
  context           = "https://example.com/linked.git"
  dockerfile-inline = "FROM scratch\nCOPY . /\n"
}
`
}

// sourceRules returns rules, and the sources that they deny.
func sourceRules(manifest, sum digest.Digest) map[string][]string {
	layout := "oci-layout://images@" + manifest.String()
	all := []string{
		"cache.example.com/c", "docker.io/library/debian:13@sha256:" + strings.Repeat("0", 64),
		"docker.io/library/golang:1.26", "ghcr.io/acme/run:1", "git@github.com:acme/q.git#v1",
		"https://example.com/linked.git", "https://example.com/sum.tgz", "https://example.com/tool.tgz",
		"https://example.com/x.tar.gz", "https://github.com/acme/proto.git#" + commit,
		"https://other.example.com/pinned.tgz", "https://user:xxxxx@git.example.com:8443/a/b.git#main", layout,
		"quay.io/x/y:1", "type=local cache",
	}
	return map[string][]string{
		"source.kind == ''": all,
		"source.kind != 'image'": {"docker.io/library/debian:13@sha256:" + strings.Repeat("0", 64),
			"docker.io/library/golang:1.26", "ghcr.io/acme/run:1", "quay.io/x/y:1"},
		"source.kind != 'oci-layout'": {layout},
		"source.kind != 'cache'":      {"cache.example.com/c", "type=local cache"},
		"source.kind != 'git'": {"git@github.com:acme/q.git#v1", "https://example.com/linked.git",
			"https://github.com/acme/proto.git#" + commit,
			"https://user:xxxxx@git.example.com:8443/a/b.git#main"},
		"source.kind != 'http'": {"https://example.com/sum.tgz", "https://example.com/tool.tgz",
			"https://example.com/x.tar.gz", "https://other.example.com/pinned.tgz"},
		"source.host != 'github.com'": {"git@github.com:acme/q.git#v1",
			"https://github.com/acme/proto.git#" + commit},
		"source.host != 'git.example.com:8443'": {"https://user:xxxxx@git.example.com:8443/a/b.git#main"},
		"source.scheme != 'ssh'":                {"git@github.com:acme/q.git#v1"},
		"source.path != 'acme/proto.git'":       {"https://github.com/acme/proto.git#" + commit},
		"source.digest != '" + commit + "'":     {"https://github.com/acme/proto.git#" + commit},
		"source.digest != '" + sum.String() + "'": {"https://example.com/sum.tgz",
			"https://other.example.com/pinned.tgz"},
		"!source.locked": {"docker.io/library/debian:13@sha256:" + strings.Repeat("0", 64),
			"https://example.com/sum.tgz",
			"https://github.com/acme/proto.git#" + commit, "https://other.example.com/pinned.tgz"},
		"!source.locations.exists(l, l.startsWith('mirror.'))": {"cache.example.com/c",
			"docker.io/library/debian:13@sha256:" + strings.Repeat("0", 64), "docker.io/library/golang:1.26",
			"ghcr.io/acme/run:1", "quay.io/x/y:1"},
		"base.kind != 'oci-layout'":                         {"base " + layout},
		"base.registry != '' && base.registry != 'quay.io'": {"base " + layout, "base quay.io/x/y:1"},
		"source.kind != 'context' || target.name != 'default'": {
			"target default (linux/amd64), source https://example.com/linked.git",
			"target default (linux/amd64), source https://example.com/x.tar.gz",
			"target default (linux/amd64), source https://user:xxxxx@git.example.com:8443/a/b.git#main"},
	}
}

// TestPolicySources checks that a rule sees every kind of source of bytes outside of the project, with its facts.
func TestPolicySources(t *testing.T) {
	files, manifest := layoutFiles()
	sum := digest.FromString("x")
	files["bake.hcl"] = sourcesProject(sum)
	dir := t.TempDir()
	write(t, dir, files)
	p := load(t, dir, "default")
	opts := options()
	opts.Lock = config.NewLock()
	opts.Lock.HTTP["https://other.example.com/pinned.tgz"] = sum
	g, err := planner.Plan(t.Context(), p, opts)
	if err != nil {
		t.Fatal(err)
	}
	fact := func(rule string) []string {
		t.Helper()
		p.Policies = map[string]config.Policy{"p": {Name: "p", Rule: rule, Message: "m"}}
		found, err := g.CheckPolicies(p, func(ref string) []string { return []string{"mirror.example.com/m", ref} })
		if err != nil {
			t.Fatal(rule, err)
		}
		var all []string
		for _, v := range found {
			all = append(all, strings.TrimPrefix(v.Subject, "source "))
		}
		slices.Sort(all)
		return slices.Compact(all) // a context that is not downloaded is a source of a step too
	}
	for rule, want := range sourceRules(manifest, sum) {
		if d := cmp.Diff(want, fact(rule)); d != "" {
			t.Errorf("%s: %s", rule, d)
		}
	}
	p.Policies = map[string]config.Policy{"p": {Name: "p", Rule: "base.official && source.locked"}}
	_, err = g.CheckPolicies(p, nil)
	if err == nil || !strings.Contains(err.Error(), "cannot use both base and source") {
		t.Error("base and source:", err)
	}
}

// TestPolicySeesEachContent: one URL may give two contents, by its query or from one request to the next, and a rule
// that knows one of them must not permit the other.
func TestPolicySeesEachContent(t *testing.T) {
	good, other := digest.FromString("good"), digest.FromString("other")
	for _, second := range []string{"ADD https://example.com/f?v=2 /b", "ADD --checksum=" + other.String() +
		" https://example.com/f /b", "ADD --checksum=" + other.String() + " https://example.com/f?v=2 /b"} {
		dir := t.TempDir()
		write(t, dir, map[string]string{
			"bake.hcl": "target \"default\" {}\n",
			"Dockerfile": "FROM scratch\nADD --checksum=" + good.String() + " https://example.com/f?v=1 /a\n" +
				second + "\n",
		})
		p := load(t, dir, "default")
		g, err := planner.Plan(t.Context(), p, options())
		if err != nil {
			t.Fatal(err)
		}
		rule := "source.kind != 'http' || source.digest == '" + good.String() + "'"
		p.Policies = map[string]config.Policy{"p": {Name: "p", Rule: rule, Message: "m"}}
		found, err := g.CheckPolicies(p, nil)
		if err != nil || len(found) == 0 {
			t.Errorf("%s: %v, %v", second, found, err)
		}
	}
}

// TestPolicyOfDefinition checks that a rule sees where a remote definition comes from.
func TestPolicyOfDefinition(t *testing.T) {
	p := &config.Project{Remote: "https://git.example.com/a/b.git#main:sub", Targets: map[string]*config.Target{},
		Policies: map[string]config.Policy{"p": {Name: "p", Rule: "source.host != 'git.example.com'", Message: "m"}}}
	found, err := (&planner.Graph{}).CheckPolicies(p, nil)
	if err != nil || len(found) != 1 || found[0].Subject != "source https://git.example.com/a/b.git#main" {
		t.Errorf("%v, %v", found, err)
	}
}
