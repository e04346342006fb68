package executortest

import (
	"os"
	"strings"
	"testing"
)

// TestCases checks that there are enough cases, that each has an expected result, and that executor/README.md lists
// every intended difference.
func TestCases(t *testing.T) {
	all, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 200 {
		t.Errorf("%d cases, want at least 200", len(all))
	}
	raw, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := strings.Join(strings.Fields(string(raw)), " ")
	for _, c := range all {
		switch {
		case c.Want == "":
			t.Errorf("%s: no @want: run BAKE_UPDATE=1 go test ./cmd/bake -run TestConformance", c.Name)
		case c.Want == Fails && c.Message == "" && c.Reason == "":
			t.Errorf("%s fails, but has no @message", c.Name)
		case c.Reason != "" && (c.Own == "" || c.Own == c.Want):
			t.Errorf("%s: has a @reason but no different @own", c.Name)
		}
		if c.Reason != "" && !strings.Contains(readme, strings.Join(strings.Fields(c.Reason), " ")) {
			t.Errorf("%s: executor/README.md lacks its reason", c.Name)
		}
	}
}

// TestRandom checks that a seed always gives the same case.
func TestRandom(t *testing.T) {
	for seed := range uint64(50) {
		a, b := Random(seed), Random(seed)
		if string(a.Files["Dockerfile"]) != string(b.Files["Dockerfile"]) || a.Setup != b.Setup {
			t.Fatalf("seed %d gives two cases", seed)
		}
	}
}
