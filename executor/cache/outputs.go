package cache

import (
	"encoding/json"

	digest "github.com/opencontainers/go-digest"
)

// maxOutputs is the maximum size in bytes of the record of one output directory.
const maxOutputs = 16 << 20

func (s *Store) outputPath(dest string) string {
	return s.path(dirOutputs, digest.FromString(dest).Encoded())
}

// Written returns the directories that outputs wrote below dest, by path, with what identifies their content. It is
// empty if nothing is known.
func (s *Store) Written(dest string) map[string]string {
	raw, err := readBounded(s.outputPath(dest), maxOutputs)
	if err != nil {
		return nil
	}
	var dirs map[string]string
	if json.Unmarshal(raw, &dirs) != nil {
		return nil
	}
	return dirs
}

// SetWritten records the directories that outputs wrote below dest. A record that would be too large is dropped.
func (s *Store) SetWritten(dest string, dirs map[string]string) error {
	raw, err := json.Marshal(dirs)
	if err != nil {
		return err
	}
	if len(raw) > maxOutputs {
		raw = []byte("{}")
	}
	return s.writeFile(s.outputPath(dest), raw)
}
