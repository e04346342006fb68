package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// maxEntry bounds an entry file, in bytes; a larger one is a miss.
const maxEntry = 16 << 20

// Input is a named part of a key. Digest is any text that stands for the part's content. Value is that content for
// people, where Digest does not say it; it is in no key.
type Input struct {
	Name, Digest string
	Value        string `json:",omitempty"`
}

// KeyOf hashes key parts in the given order. Parts are length-prefixed, so that no two lists give the same bytes.
func KeyOf(inputs []Input) digest.Digest {
	h := sha256.New()
	for _, in := range inputs {
		for _, part := range []string{in.Name, in.Digest} {
			h.Write(strconv.AppendInt(nil, int64(len(part)), 10))
			h.Write([]byte{':'})
			h.Write([]byte(part))
		}
	}
	return digest.NewDigest(digest.SHA256, h)
}

// Entry is the result of one step under one key.
type Entry struct {
	// ID is the key under which the result was first stored. The keys of users hold it, so that a result found under
	// another key (an early cut-off) leaves them as they are.
	ID      digest.Digest
	Key     digest.Digest
	Step    digest.Digest // digest of the step's definition
	Name    string
	Inputs  []Input  // what Key was made of
	Outputs []Output // by output index
	// Lookups are what a file operation asked of the tree that it stands on.
	Lookups []Lookup
	// Selections are content digests of what others read from this entry's outputs, so that they need not be
	// computed again.
	Selections []Selection
	Seconds    float64 // how long the step ran
	Created    time.Time
}

// Output is one file system, as a stack of parts, bottom first. No parts is scratch.
type Output struct{ Parts []Part }

// Part is either everything of an input's output, or one layer of the step's own.
type Part struct {
	Input, Index int           // when Layer is empty
	Layer        digest.Digest // id of an own layer
}

// Lookup is a question to a tree and its answer, both in the words of who asked.
type Lookup struct{ Path, Answer string }

// Selection is a remembered content digest.
type Selection struct {
	Name   string
	Digest digest.Digest
}

// stored is the content of an entry file: an entry, or the id of one that serves this key too.
type stored struct {
	Alias digest.Digest `json:",omitempty"`
	Entry *Entry        `json:",omitempty"`
}

const entryMagic = "bake-entry 1 "

// encodeEntry makes the bytes of an entry file: a line with the checksum of what follows, then JSON.
func encodeEntry(v stored) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return seal(entryMagic, body), nil
}

// seal puts a line with a checksum in front.
func seal(magic string, body []byte) []byte {
	sum := sha256.Sum256(body)
	raw := make([]byte, 0, len(magic)+hex.EncodedLen(len(sum))+1+len(body))
	raw = hex.AppendEncode(append(raw, magic...), sum[:])
	return append(append(raw, '\n'), body...)
}

// unseal checks the line and gives what follows it.
func unseal(magic string, raw []byte) ([]byte, error) {
	head, body, ok := bytes.Cut(raw, []byte{'\n'})
	want, isIt := bytes.CutPrefix(head, []byte(magic))
	sum := sha256.Sum256(body)
	if !ok || !isIt || string(want) != hex.EncodeToString(sum[:]) {
		return nil, errDamaged
	}
	return body, nil
}

var errDamaged = errors.New("damaged entry")

// decodeEntry checks and reads an entry file.
func decodeEntry(raw []byte) (stored, error) {
	var v stored
	body, err := unseal(entryMagic, raw)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if (v.Entry == nil) == (v.Alias == "") {
		return v, errDamaged
	}
	if v.Alias != "" && v.Alias.Validate() != nil {
		return v, errDamaged
	}
	return v, v.Entry.Validate()
}

// Validate refuses digests that are none, since they become file names.
func (e *Entry) Validate() error {
	if e == nil {
		return nil
	}
	if e.ID.Validate() != nil || e.Key.Validate() != nil {
		return errDamaged
	}
	for _, o := range e.Outputs {
		for _, p := range o.Parts {
			if p.Layer != "" && p.Layer.Validate() != nil || p.Input < 0 || p.Index < 0 {
				return errDamaged
			}
		}
	}
	return nil
}

func (s *Store) entryPath(key digest.Digest) string {
	hex := key.Encoded()
	return s.path(dirEntries, hex[:2], hex)
}

// Lookup finds the entry that serves a key, directly or through an alias. It is nil when there is none, when its file
// is damaged or when one of its own layers is gone. What is found counts as used now.
func (s *Store) Lookup(key digest.Digest) (*Entry, error) {
	if err := s.gate.enter(); err != nil {
		return nil, wrap("look up", s.dir, err)
	}
	defer s.gate.leave()
	v, ok := s.readEntry(s.entryPath(key))
	if ok && v.Alias != "" {
		v, ok = s.readEntry(s.entryPath(v.Alias))
	}
	if !ok || v.Entry == nil || !s.useLayers(v.Entry) {
		return nil, nil
	}
	return v.Entry, nil
}

func (s *Store) readEntry(path string) (stored, bool) {
	raw, err := readBounded(path, maxEntry)
	if err != nil {
		return stored{}, false
	}
	v, err := decodeEntry(raw)
	return v, err == nil
}

// Put stores an entry under its Key. Its own layers must have been committed.
func (s *Store) Put(e *Entry) error {
	return s.writeEntry(s.entryPath(e.Key), stored{Entry: e})
}

// Alias makes the entry that was stored under id serve key too.
func (s *Store) Alias(key, id digest.Digest) error {
	return s.writeEntry(s.entryPath(key), stored{Alias: id})
}

func (s *Store) writeEntry(path string, v stored) error {
	raw, err := encodeEntry(v)
	if err != nil {
		return fmt.Errorf("encode an entry: %w", err)
	}
	return wrap("write", path, s.writeFile(path, raw))
}

// maxCandidates bounds how many results of one file operation, over different trees, are tried.
const maxCandidates = 16

// PutCandidate stores an entry among those of a group: results that may serve another key once their look-ups have
// been asked again.
func (s *Store) PutCandidate(group digest.Digest, e *Entry) error {
	hex := group.Encoded()
	return s.writeEntry(s.path(dirCandidates, hex[:2], hex, e.ID.Encoded()), stored{Entry: e})
}

// Candidates lists the entries of a group whose layers are all there.
func (s *Store) Candidates(group digest.Digest) ([]*Entry, error) {
	if err := s.gate.enter(); err != nil {
		return nil, wrap("look up", s.dir, err)
	}
	defer s.gate.leave()
	hex := group.Encoded()
	dir := s.path(dirCandidates, hex[:2], hex)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil
	}
	var found []*Entry
	for _, n := range names {
		if len(found) == maxCandidates {
			break
		}
		v, ok := s.readEntry(filepath.Join(dir, n.Name()))
		if ok && v.Entry != nil && s.useLayers(v.Entry) {
			found = append(found, v.Entry)
		}
	}
	return found, nil
}
