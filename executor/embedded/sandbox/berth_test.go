package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestClose: nothing that is ready for a next step outlives the sandbox, which somebody else would have to wait for; and what is asked
// for later starts anew.
func TestClose(t *testing.T) {
	b := newBox(t)
	before := children(t) // those of other sandboxes may still be ready
	for range 2 {
		if out, err := b.run(t, "echo ran"); err != nil || out != "ran\n" {
			t.Fatalf("%q, %v", out, err)
		}
		check(t, b.sandbox.Close())
		for _, left := range children(t) {
			if !slices.Contains(before, left) {
				t.Errorf("left: %s", left)
			}
		}
	}
}

// children are the stages that are children of this process, those that ended too.
func children(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	check(t, err)
	return slices.DeleteFunc(all, func(path string) bool {
		raw, err := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(raw), ") ")
		return err != nil || !strings.HasPrefix(rest[min(2, len(rest)):], fmt.Sprintf("%d ", os.Getpid()))
	})
}
