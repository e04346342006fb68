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

// NewLog makes the file for the whole log of one run of a step, whose name holds the beginning of its digest and this process's Session.
// Logs live as long as the cache's other files do.
func (s *Store) NewLog(step digest.Digest) (*os.File, error) {
	name := fmt.Sprintf("%s-%s-%s-%s.log", Stamp(time.Now()), step.Encoded()[:shownDigest], s.Session(), filepath.Base(s.tempName()))
	path := s.path(dirLogs, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	s.mu.Lock()
	s.logs = append(s.logs, path)
	s.mu.Unlock()
	return f, wrap("make log", path, err)
}

// shownDigest is how much of a step's digest the name of its log has.
const shownDigest = 12

// Session names this opening of the cache, as no other.
func (s *Store) Session() string { return filepath.Base(s.tmp) }

// SessionAlive says whether the process of a session has the cache open still.
func (s *Store) SessionAlive(session string) bool {
	if session == s.Session() {
		return true
	}
	_, err := os.Lstat(s.path(dirTmp, filepath.Base(session)+".lock"))
	return err == nil // Open has removed those of the dead
}

// SessionLogs are the logs that a session made since a time, the last one of each step by the beginning of its digest.
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
