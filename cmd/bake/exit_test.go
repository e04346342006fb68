package main

import (
	"fmt"
	"testing"

	"github.com/bakebuild/bake/executor"
)

// TestDamagedCacheIsNoStep: a blob of the cache that is damaged is a fault of this machine, not of what is built.
func TestDamagedCacheIsNoStep(t *testing.T) {
	if got := exitCodeOf(t.Context(), fmt.Errorf("write a.tar: %w", &executor.CorruptError{})); got != exitSystem {
		t.Errorf("exit code %d, want %d", got, exitSystem)
	}
}
