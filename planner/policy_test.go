package planner_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// readmePolicies returns the example policies in the README of config.
func readmePolicies(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../config/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(readme), "\n## Policies\n")
	_, code, ok2 := strings.Cut(section, "```hcl\n")
	code, _, ok3 := strings.Cut(code, "```\n")
	if !ok || !ok2 || !ok3 {
		t.Fatal("the README of config has no example policies")
	}
	return code
}

// load loads the project in dir with one requested target or group.
func load(t *testing.T, dir, name string) *config.Project {
	t.Helper()
	p, _, err := config.Load(t.Context(), config.Options{Dir: dir, Targets: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// violations returns the policy violations of a project's plan, sorted. Warnings start with "warn".
func violations(t *testing.T, p *config.Project, opts planner.Options) []string {
	t.Helper()
	g, err := planner.Plan(t.Context(), p, opts)
	if err != nil {
		t.Fatal(err)
	}
	found, err := g.CheckPolicies(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, v := range found {
		text := strings.TrimPrefix(v.String(), "policy ")
		if v.Warn {
			text = "warn " + text
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

// TestPolicyExamples checks that the README's example policies report the intended violations and no others.
func TestPolicyExamples(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"bake.hcl": readmePolicies(t) + `
group "default" { targets = ["good", "bad", "svc-odd", "db-migrate"] }
target "good" {
  labels            = { team = "x", "org.opencontainers.image.source" = "y" }
  dockerfile-inline = "FROM golang:1.26\nUSER 1000"
}
target "svc-odd" {
  labels            = { team = "x", "org.opencontainers.image.source" = "y" }
  dockerfile-inline = "FROM golang:1.26-slim AS build\nFROM ghcr.io/acme/run:1\nCOPY --from=build / /\nUSER 1:0"
}
target "bad" {
  dockerfile-inline = "FROM quay.io/x/y\nUSER 00:1"
}
target "db-migrate" {
  labels            = { team = "x", "org.opencontainers.image.source" = "y" }
  dockerfile-inline = "FROM debian:13@sha256:` + strings.Repeat("0", 64) + `"
}
`,
	})
	p := load(t, dir, "default")
	lock := config.NewLock()
	for _, ref := range []string{"docker.io/library/golang:1.26", "docker.io/library/golang:1.26-slim",
		"ghcr.io/acme/run:1"} {
		lock.Images[ref] = config.ImagePin{Digest: "sha256:" +
			"1111111111111111111111111111111111111111111111111111111111111111"}
	}
	opts := options()
	opts.Lock = lock
	got := violations(t, p, opts)
	want := []string{
		"all-pinned: base quay.io/x/y:latest: run bake pin and commit bake.lock (dockerfile-inline of bad:1)",
		"labels: target bad (linux/amd64): set the labels org.opencontainers.image.source and team",
		"no-latest: base quay.io/x/y:latest: name a version (dockerfile-inline of bad:1)",
		"one-go: base docker.io/library/golang:1.26-slim: all services use one golang: name it in a base block " +
			"(dockerfile-inline of svc-odd:1)",
		"one-go: base docker.io/library/golang:1.26: all services use one golang: name it in a base block " +
			"(dockerfile-inline of good:1)",
		"our-registries: base quay.io/x/y:latest: take official images, or those of ghcr.io/acme (dockerfile-inline " +
			"of bad:1)",
		"small-bases: target svc-odd (linux/amd64), base ghcr.io/acme/run:1: services stand on slim or alpine " +
			"variants (dockerfile-inline of svc-odd:2)",
		"warn not-root: target bad (linux/amd64): end the Dockerfile with USER",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestPolicyOfLinks checks that an image's bases include those of linked targets that it uses, even if only the image
// is requested.
func TestPolicyOfLinks(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"bake.hcl": `
policy "shipped" {
  rule    = "!target.name.startsWith('svc-') || base.tag == 'slim'"
  message = "services stand on slim"
}
policy "stood" {
  rule    = "base.ref != image.base || base.tag == 'slim'"
  message = "stand on slim"
}
target "svc-api" {
  contexts          = { common = "target:common", unused = "target:unused" }
  dockerfile-inline = "FROM common\nUSER 5"
}
target "common" { dockerfile-inline = "FROM debian:13" }
target "unused" { dockerfile-inline = "FROM debian:12" }
`})
	p := load(t, dir, "svc-api")
	got := violations(t, p, options())
	const subject = "target svc-api (linux/amd64), base docker.io/library/debian:13"
	want := []string{
		"shipped: " + subject + ": services stand on slim (dockerfile-inline of common:1)",
		"stood: " + subject + ": stand on slim (dockerfile-inline of common:1)",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestPolicyWithoutSubject checks that a rule which uses neither base nor target nor image is evaluated once.
func TestPolicyWithoutSubject(t *testing.T) {
	tests := map[string]struct{ rule, want string }{
		"true":    {"true", ""},
		"false":   {"false", "policy p: the project: rule is false: false"},
		"invalid": {"'x'.matches('(')", "error"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &config.Project{Policies: map[string]config.Policy{"p": {Name: "p", Rule: tt.rule}}}
			found, err := (&planner.Graph{}).CheckPolicies(p, nil)
			got := ""
			switch {
			case err != nil:
				got = "error"
			case len(found) > 0:
				got = found[0].String()
			}
			if got != tt.want {
				t.Errorf("got %q (%v), want %q", got, err, tt.want)
			}
		})
	}
}
