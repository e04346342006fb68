package remotecache

import (
	"bytes"
	"os"
)

// spill keeps texts in memory, and in a file once there are many.
type spill struct {
	create func() (*os.File, error)
	memory []byte
	file   *os.File
	end    int64 // of the file, with what memory holds
}

// maxMemory is how many bytes of texts are kept in memory.
const maxMemory = 8 << 20

// add appends a text and returns its place.
func (s *spill) add(raw []byte) (at int64, err error) {
	at = s.end
	s.end += int64(len(raw))
	if s.file == nil && len(s.memory)+len(raw) <= maxMemory {
		s.memory = append(s.memory, raw...)
		return at, nil
	}
	if s.file == nil {
		if s.file, err = s.create(); err != nil {
			return at, err
		}
		if _, err := s.file.Write(s.memory); err != nil {
			return at, err
		}
		s.memory = nil
	}
	_, err = s.file.Write(raw)
	return at, err
}

// read returns a text.
func (s *spill) read(p span) ([]byte, error) {
	if s.file == nil {
		return bytes.Clone(s.memory[p.at : p.at+int64(p.size)]), nil
	}
	raw := make([]byte, p.size)
	_, err := s.file.ReadAt(raw, p.at)
	return raw, err
}

func (s *spill) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
