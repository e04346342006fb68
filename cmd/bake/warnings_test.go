package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
)

// TestWarningsBeforeFailure: the warnings of a Dockerfile are shown although the plan fails, with their lines, and with
// --progress=rawjson as BuildKit encodes them.
func TestWarningsBeforeFailure(t *testing.T) {
	c := newCLI(t)
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=cacheonly"] }`)
	for name, file := range map[string]string{
		"check=error=true":    "# check=error=true\nFROM scratch as x\nCOPY f /\n",
		"unknown instruction": "FROM scratch\nFROM scratch as x\nNOSUCH\n",
	} {
		c.write(t, "Dockerfile", file)
		_, stderr, code := c.run(t, "build", "--progress=plain")
		if code != 2 {
			t.Errorf("%s: exit %d", name, code)
		}
		warned := strings.Index(stderr, "warning: Dockerfile:2: ")
		if failed := strings.Index(stderr, "error: "); warned < 0 || failed < warned {
			t.Errorf("%s: no warning with its line before the error:\n%s", name, stderr)
		}
		_, stderr, _ = c.run(t, "build", "--progress=rawjson")
		var found []*client.VertexWarning
		for line := range strings.Lines(stderr) {
			var status client.SolveStatus
			if json.Unmarshal([]byte(line), &status) == nil {
				found = append(found, status.Warnings...)
			}
		}
		if len(found) == 0 || len(found[0].Range) == 0 || found[0].Range[0].Start.Line != 2 ||
			found[0].SourceInfo.Filename != "Dockerfile" || strings.Contains(stderr, "warning: ") {
			t.Errorf("%s: rawjson has %+v:\n%s", name, found, stderr)
		}
		stdout, _, _ := c.run(t, "build", "--call=check,format=json")
		var answer struct {
			Target map[string]struct {
				Check struct {
					Error    string
					Warnings []any
				}
			}
		}
		if err := json.Unmarshal([]byte(stdout), &answer); err != nil {
			t.Fatalf("%s: %v in %s", name, err, stdout)
		}
		check := answer.Target["default"].Check
		if want := "unknown instruction: NOSUCH\nDockerfile:3\n"; name != "check=error=true" &&
			!strings.Contains(check.Error, want) {
			t.Errorf("%s: error %q, want %q", name, check.Error, want)
		}
		if len(check.Warnings) == 0 {
			t.Errorf("%s: the JSON has no warnings: %s", name, stdout)
		}
	}
}
