package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
)

// matrixFile is a project with a matrix of n × 5 targets, functions, and three levels of inheritance.
func matrixFile(n int) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%q", fmt.Sprintf("svc%d", i)))
	}
	return `
variable "TAG" { default = "dev" }
variable "REGISTRY" { default = "registry.example" }
function "image" {
  params = [name, version]
  result = "${REGISTRY}/${lower(name)}:${TAG}-${version}"
}
target "_base" {
  args   = { TAG = TAG, GO = "1.26" }
  labels = { vendor = upper("acme") }
}
target "_service" {
  inherits  = ["_base"]
  platforms = ["linux/amd64", "linux/arm64"]
}
target "all" {
  matrix   = { svc = [` + strings.Join(names, ", ") + `], v = ["1", "2", "3", "4", "5"] }
  name     = "${svc}-${v}"
  inherits = ["_service"]
  context  = "services/${svc}"
  args     = { SERVICE = svc, VERSION = v }
  tags     = [image(svc, v), "${image(svc, v)}-${substr(sha256(svc), 0, 8)}"]
}
`
}

// flatFile is a project with n targets, one written after the other.
func flatFile(n int) string {
	var b strings.Builder
	b.WriteString("variable \"TAG\" { default = \"dev\" }\ntarget \"_base\" { args = { TAG = TAG } }\n")
	var names []string
	for i := range n {
		fmt.Fprintf(&b, "target \"t%d\" {\n  inherits = [\"_base\"]\n  context = \"services/t%d\"\n  tags = "+
			"[\"acme/t%d:${TAG}\"]\n}\n", i, i, i)
		names = append(names, fmt.Sprintf("\"t%d\"", i))
	}
	fmt.Fprintf(&b, "group \"all\" { targets = [%s] }\n", strings.Join(names, ", "))
	return b.String()
}

// BenchmarkPrint evaluates and prints whole projects, and one target of a large one.
func BenchmarkPrint(b *testing.B) {
	for _, c := range []struct {
		name, file, target string
	}{
		{"matrix-500", matrixFile(100), "all"},
		{"matrix-4000", matrixFile(800), "all"},
		{"one-of-4000", matrixFile(800), "svc7-3"},
		{"flat-500", flatFile(500), "all"},
		{"flat-4000", flatFile(4000), "all"},
		{"flat-10000", flatFile(9990), "all"},
		{"one-of-flat-10000", flatFile(9990), "t77"},
	} {
		b.Run(c.name, func(b *testing.B) {
			dir := b.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "bake.hcl"), []byte(c.file), 0o644); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				p, _, err := config.Load(b.Context(), config.Options{Dir: dir, Targets: []string{c.target}})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := config.Print(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
