package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// NewLog creates the file for the complete log of one run of a step. Its name contains the first characters of the
// step's digest and the Session. PutBuild and eviction remove logs.
func (s *Store) NewLog(step digest.Digest) (*os.File, error) {
	name := fmt.Sprintf("%s-%s-%s-%s.log",
		Stamp(time.Now()), step.Encoded()[:shownDigest], s.Session(), filepath.Base(s.tempName()))
	path := s.path(dirLogs, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	s.mu.Lock()
	s.logs = append(s.logs, path)
	s.mu.Unlock()
	return f, wrap("create log", path, err)
}

// shownDigest is how many characters of a step's digest the name of its log contains.
const shownDigest = 12

// Session returns a name for this opening of the cache that no other opening has.
func (s *Store) Session() string { return filepath.Base(s.tmp) }

// SessionAlive reports whether the process of a session still has the cache open.
func (s *Store) SessionAlive(session string) bool {
	if session == s.Session() {
		return true
	}
	_, err := os.Lstat(s.path(dirTmp, filepath.Base(session)+".lock"))
	return err == nil // Open removed the lock files of processes that had ended
}

// SessionLogs returns the names of the logs that a session has started since the given time, by the first characters
// of the step's digest. If a step ran several times, the last log is returned.
func (s *Store) SessionLogs(session string, since time.Time) (map[string]string, error) {
	names, err := os.ReadDir(s.path(dirLogs))
	if err != nil {
		return nil, wrap("list", s.path(dirLogs), err)
	}
	logs := map[string]string{}
	for _, n := range names {
		if parts := strings.Split(n.Name(), "-"); len(parts) == 4 && parts[2] == session && parts[0] >= Stamp(since) {
			logs[parts[1]] = n.Name()
		}
	}
	return logs, nil
}
