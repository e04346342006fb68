package pins

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewerTags(t *testing.T) {
	all := strings.Fields("latest 1 2 10 1.9 1.10 1.26 1.27 1.27-alpine 1.26-alpine 1.28-alpine 1.27.1 1.27.0-rc1 " +
		"v1.27 v1.28 20240101 3-alpine3.20 1.2.3.4 bookworm 1.26-rc.1")
	for tag, want := range map[string]string{
		"1.26": "1.27", "1.9": "1.27 1.26 1.10", "1": "10 2", "1.26-alpine": "1.28-alpine 1.27-alpine",
		"v1.27": "v1.28", "1.27.0": "1.27.1",
		"latest": "", "bookworm": "", "10": "", "20230101": "20240101", "3-alpine3.19": "",
	} {
		if d := cmp.Diff(strings.Fields(want), newerTags(tag, all)); d != "" {
			t.Errorf("%s: %s", tag, d)
		}
	}
}

func TestLooksImmutable(t *testing.T) {
	for tag, want := range map[string]bool{
		"1.2.3": true, "v1.2.3": true, "1.2.3-alpine": true, "1.2.3+build": true, "22.04.1_2": true,
		"1.2": false, "latest": false, "1": false, "1.2.x": false, "3.13-slim": false,
	} {
		if looksImmutable(tag) != want {
			t.Errorf("%s: want %v", tag, want)
		}
	}
}
