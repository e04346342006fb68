package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestClose checks that Close ends the pre-started init processes, and that a closed sandbox can run another step.
func TestClose(t *testing.T) {
	b := newBox(t)
	before := children(t) // init processes of other sandboxes may still be waiting
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

// children returns the /proc stat files of this process's children, including those that ended and were not waited for.
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
