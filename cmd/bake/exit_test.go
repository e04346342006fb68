package main

import (
	"fmt"
	"testing"

	"github.com/bakebuild/bake/executor"
)

// TestDamagedCacheIsNoStep shows that a damaged blob of the cache gives the exit code of a system error, not of a step.
func TestDamagedCacheIsNoStep(t *testing.T) {
	if got := exitCodeOf(t.Context(), fmt.Errorf("write a.tar: %w", &executor.CorruptError{})); got != exitSystem {
		t.Errorf("exit code %d, want %d", got, exitSystem)
	}
}
