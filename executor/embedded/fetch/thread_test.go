package fetch

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestGitSurvivesThreads shows that git does not end with a thread of this process, although it ends with the process:
// the parent-death signal is sent when the thread that started a process ends.
func TestGitSurvivesThreads(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nsleep 0.3\necho 0123456789012345678901234567890123456789 refs/heads/main\n"
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	f := &Fetcher{Env: os.Environ()}
	end := time.Now().Add(2 * time.Second)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for time.Now().Before(end) {
				if _, err := f.run(t.Context(), dir, "", "version"); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for time.Now().Before(end) {
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					runtime.LockOSThread() // the thread ends with the goroutine, as a worker of the sandbox does
				}()
				<-ended
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
}
