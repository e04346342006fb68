package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// NewLog makes the file for the whole log of one run of a step. Logs live as long as the cache's other files do.
func (s *Store) NewLog(step digest.Digest) (*os.File, error) {
	name := fmt.Sprintf("%s-%s-%s.log", Stamp(time.Now()), step.Encoded()[:12], filepath.Base(s.tempName()))
	path := s.path(dirLogs, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	s.mu.Lock()
	s.logs = append(s.logs, path)
	s.mu.Unlock()
	return f, wrap("make log", path, err)
}
