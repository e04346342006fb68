package executortest

import (
	"os"
	"strings"
	"testing"
)

// TestCases: there are enough, each says what it wants, and what differs on purpose stands in the README of executor.
func TestCases(t *testing.T) {
	all, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 200 {
		t.Errorf("%d cases; at least 200 are wanted", len(all))
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
			t.Errorf("%s fails, and no @message says how", c.Name)
		case c.Reason != "" && (c.Own == "" || c.Own == c.Want):
			t.Errorf("%s: a @reason and nothing that differs", c.Name)
		}
		if c.Reason != "" && !strings.Contains(readme, strings.Join(strings.Fields(c.Reason), " ")) {
			t.Errorf("%s: its reason does not stand in executor/README.md", c.Name)
		}
	}
}

// TestRandom: a seed always gives the same case.
func TestRandom(t *testing.T) {
	for seed := range uint64(50) {
		a, b := Random(seed), Random(seed)
		if string(a.Files["Dockerfile"]) != string(b.Files["Dockerfile"]) || a.Setup != b.Setup {
			t.Fatalf("seed %d gives two cases", seed)
		}
	}
}
