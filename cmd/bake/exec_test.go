package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// builtBake compiles bake once for all tests of this process, the way the README describes.
type builtBake struct {
	once sync.Once
	path string
	err  error
}

var binary builtBake //nolint:gochecknoglobals // a test's memo

func (b *builtBake) get() (string, error) {
	b.once.Do(func() {
		dir, err := os.MkdirTemp("", "bake-test-binary-")
		if err != nil {
			b.err = err
			return
		}
		if b.err = os.Chmod(dir, 0o755); b.err != nil {
			return
		}
		b.path = filepath.Join(dir, "bake")
		cmd := exec.Command("go", "build", "-o", b.path, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		b.err = cmd.Run()
	})
	return b.path, b.err
}

// bakeCommand returns a command that runs the compiled bake.
func bakeCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary.get()
	if err != nil {
		t.Fatalf("build bake: %v", err)
	}
	return exec.Command(path, args...)
}
