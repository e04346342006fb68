package cache

import (
	"crypto/rand"
	"strings"
)

// ID returns a random name for this cache, created at the first call. It reveals nothing about the machine. If several
// processes call it first at the same time, each may get its own name from that one call.
func (s *Store) ID() (string, error) {
	path := s.path("id")
	raw, err := readBounded(path, 1<<10)
	if id := strings.TrimSpace(string(raw)); err == nil && validID(id) {
		return id, nil
	}
	id := rand.Text()
	return id, wrap("write", path, s.writeFile(path, []byte(id+"\n")))
}

// validID reports whether id looks like the result of rand.Text: a damaged file must not become a name.
func validID(id string) bool {
	return len(id) == len(rand.Text()) && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}
