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
	inMount := func() string { return filepath.Join(s.store.Dir(), "mounts", "*", "fs", "d", "*") }
	for try := 1; !interruptFilling(s, inMount(), count); try++ {
		if try == 10 {
			t.Fatal("the mount was filled each time before the build was interrupted")
		}
		s.newCache()
	}
	if _, _, err := s.run(); err != nil {
		t.Fatal(err)
	}
	filled, err := filepath.Glob(inMount())
	if err != nil || len(filled) != count {
		t.Fatalf("the mount has %d files, want %d: %v", len(filled), count, err)
	}
	if raw, err := os.ReadFile(filled[count-1]); err != nil || string(raw) != fmt.Sprint("file ", count-1) {
		t.Errorf("the last file is %q: %v", raw, err)
	}
}

// interruptFilling builds until the first file is in the mount, and reports whether that was before the last.
func interruptFilling(s *site, inMount string, count int) bool {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if some, err := filepath.Glob(inMount); err != nil || len(some) > 0 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := s.engine.Run(ctx, s.graph(), s.opts)
	half, globErr := filepath.Glob(inMount)
	if globErr != nil || len(half) == 0 {
		s.t.Fatalf("the interrupted filling left %d files: %v, %v", len(half), err, globErr)
	}
	return err != nil && len(half) < count
}
