package fetch

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGitLeavesProcess: a process that left git's group and keeps its pipes open, such as a credential cache, delays
// neither a command that succeeded nor a cancelled one.
func TestGitLeavesProcess(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho done\nsetsid sleep 60 &\ncase \"$*\" in *wait) sleep 60;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	f := &Fetcher{Env: os.Environ()}
	start := time.Now()
	out, err := f.run(t.Context(), dir, "", "version")
	if err != nil || !strings.Contains(string(out), "done") {
		t.Errorf("got %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := f.run(ctx, dir, "", "wait"); err == nil {
		t.Error("a cancelled command succeeded")
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
}
