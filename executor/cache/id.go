package cache

import (
	"crypto/rand"
	"strings"
)

// ID is a name of this cache that no other has, made when it is first asked for. It says nothing of the machine. Of
// several processes that ask first at once, each may get one of its own for this once.
func (s *Store) ID() (string, error) {
	path := s.path("id")
	raw, err := readBounded(path, 1<<10)
	if id := strings.TrimSpace(string(raw)); err == nil && id != "" {
		return id, nil
	}
	id := rand.Text()
	return id, wrap("write", path, s.writeFile(path, []byte(id+"\n")))
}
