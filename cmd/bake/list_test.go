package main

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// listProject has each kind of name and value that --list shows.
const listProject = `
variable "PLAIN" { default = "x" }
variable "EMPTY" {}
variable "NONE" { default = null }
variable "TYPED_NONE" { type = string }
variable "NUMBER" { default = 1.50 }
variable "BOOL" { default = true }
variable "LIST" { default = ["a", "b"] }
variable "MAP" { default = { a = 1, b = "<&>" } }
variable "TEXT" {
  type        = string
  default     = "say \"hi\" <b> ä\n"
  description = "A text, \"quoted\"."
}
variable "SET" {
  type    = set(string)
  default = ["b", "a"]
}
variable "ANY" {
  type    = any
  default = [1, "a"]
}
variable "_HIDDEN" { default = "shown" }
variable "FROM_ENV" { default = "no" }
variable "OBJECT" {
  type    = object({ a = string, b = optional(number) })
  default = { a = "x" }
}
PLAIN_VALUE = "no variable"
group "default" { targets = ["b", "a"] }
group "described" {
  description = "Both."
  targets     = ["b", "a"]
}
group "empty" { targets = [] }
group "_private" { targets = ["a"] }
target "a" {
  description = "An <image>."
  inherits    = ["nosuch"]
}
target "b" { inherits = ["a"] }
target "_hidden" {}
target "m" {
  description = "Variant ${v}."
  name        = "m-${v}"
  matrix      = { v = ["2", "1"] }
}
target "one" {
  matrix = { v = ["1"] }
}
`

// TestListAsPeer compares the output of --list byte by byte with that of buildx.
func TestListAsPeer(t *testing.T) {
	peer, err := exec.LookPath("buildx")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("no buildx, and CI must not skip")
	}
	if err != nil {
		t.Skip("needs buildx (.ci/peers builds it)")
	}
	for name, text := range map[string]string{
		"docker-bake.hcl": listProject, "compose.yaml": "services: {b: {build: .}, a.x: {build: .}, c: {image: x}}\n",
		"docker-bake.json": `{"variable":{"V":{"default":["a"]}},"target":{"t":{"description":"T"}}}`,
		"none.hcl":         "x = 1\n",
	} {
		for _, spec := range []string{"targets", "variables", "type=targets,format=json",
			"Type=variables,format=json", "type=variables"} {
			t.Run(name+" "+spec, func(t *testing.T) {
				c := newCLI(t)
				c.write(t, name, text)
				c.env["FROM_ENV"] = "yes"
				cmd := exec.Command(peer, "bake", "-f", name, "--list="+spec)
				cmd.Dir = c.dir
				cmd.Env = append(os.Environ(), "FROM_ENV=yes", "HOME="+t.TempDir())
				var theirs, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &theirs, &errs
				if err := cmd.Run(); err != nil {
					t.Fatal(err, errs.String())
				}
				want := theirs.String()
				if want == "null\n" {
					want = "[]\n" // jq cannot iterate over null
				}
				if ours, _ := c.ok(t, "build", "-f", name, "--list="+spec); ours != want {
					t.Errorf("theirs:\n%q\nours:\n%q", want, ours)
				}
			})
		}
	}
}
