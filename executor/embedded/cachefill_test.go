package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCacheMountFillingInterrupted shows that a cache mount whose filling was interrupted is filled again: the next
// build's step finds every file of its seed.
func TestCacheMountFillingInterrupted(t *testing.T) {
	const count = 5000
	files := map[string]string{"Dockerfile": tools + `FROM scratch AS seed
COPY seed /d/
FROM tools
RUN --mount=type=cache,id=x,from=seed,source=/d,target=/c ["/step", "print", "filled"]
`}
	for i := range count {
		files[fmt.Sprintf("seed/%04d", i)] = fmt.Sprint("file ", i)
	}
	s := newBox(t, files)
	inMount := filepath.Join(s.store.Dir(), "mounts", "*", "fs", "d", "*")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if some, err := filepath.Glob(inMount); err != nil || len(some) > 0 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := s.engine.Run(ctx, s.graph(), s.opts); err == nil {
		t.Fatal("the build was not interrupted")
	}
	if half, err := filepath.Glob(inMount); err != nil || len(half) == 0 || len(half) == count {
		t.Fatalf("the interrupted filling left %d files: %v", len(half), err)
	}
	if _, _, err := s.run(); err != nil {
		t.Fatal(err)
	}
	filled, err := filepath.Glob(inMount)
	if err != nil || len(filled) != count {
		t.Fatalf("the mount has %d files, want %d: %v", len(filled), count, err)
	}
	if raw, err := os.ReadFile(filled[count-1]); err != nil || string(raw) != fmt.Sprint("file ", count-1) {
		t.Errorf("the last file is %q: %v", raw, err)
	}
}
