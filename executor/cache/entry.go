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
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache/key"
)

// maxEntry bounds an entry file, in bytes; a larger one is a miss.
const maxEntry = 16 << 20

// Entry is the result of one step under one key.
type Entry struct {
	// ID is the key under which the result was first stored. The keys of dependent steps contain it. A result found
	// under another key keeps its ID, so those keys stay the same (early cut-off).
	ID      digest.Digest
	Key     digest.Digest
	Step    digest.Digest // of the step's definition
	Name    string
	Inputs  []key.Part // the parts that Key was computed from
	Outputs []Output   // by output index
	// Lookups are the path lookups of a file operation in the file system below it, with their results.
	Lookups []Lookup
	// Selections are content digests of files that other steps read from this entry's outputs. They are stored so
	// that they need not be computed again.
	Selections []Selection
	Seconds    float64 // how long the step ran
	Created    time.Time
}

// Output is a file system as a stack of parts, bottom first. An output without parts is scratch.
type Output struct{ Parts []Part }

// Part is either the complete output of an input, or one layer that the step itself produced.
type Part struct {
	Input, Index int           // the input and its output; used if Layer is empty
	Layer        digest.Digest // ID of a layer of the step
}

// Lookup is a path lookup and its result. The cache compares neither: the caller chooses both texts.
type Lookup struct{ Path, Answer string }

// Selection is the stored content digest of selected files.
type Selection struct {
	Name   string
	Digest digest.Digest
}

// stored is the content of an entry file: an entry, or an alias, which is the ID of the entry that serves this key
// too.
type stored struct {
	Alias digest.Digest `json:",omitempty"`
	Entry *Entry        `json:",omitempty"`
	// After is set for claims only, see ClaimSet.
	After []string `json:",omitempty"`
}

const entryMagic = "bake-entry 1 "

// encodeEntry returns the bytes of an entry file: a line with the checksum of the rest, then JSON.
func encodeEntry(v stored) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return seal(entryMagic, body), nil
}

// seal returns body with a line in front that holds magic and the checksum of body.
func seal(magic string, body []byte) []byte {
	sum := sha256.Sum256(body)
	raw := make([]byte, 0, len(magic)+hex.EncodedLen(len(sum))+1+len(body))
	raw = hex.AppendEncode(append(raw, magic...), sum[:])
	return append(append(raw, '\n'), body...)
}

// unseal verifies the first line and returns the rest.
func unseal(magic string, raw []byte) ([]byte, error) {
	head, body, ok := bytes.Cut(raw, []byte{'\n'})
	want, isIt := bytes.CutPrefix(head, []byte(magic))
	sum := sha256.Sum256(body)
	if !ok || !isIt || string(want) != hex.EncodeToString(sum[:]) {
		return nil, errDamaged
	}
	return body, nil
}

var errDamaged = errors.New("damaged file")

// decodeEntry verifies and parses an entry file.
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

// maxIndexOfOutput bounds the number of an output of an input.
const maxIndexOfOutput = 1 << 16

// Validate reports an error if a digest of the entry is invalid, or if it names an input that no step with its key can
// have. Digests become file names, so an invalid one could name a path outside the cache. A nil entry is valid. Whether
// the outputs are those of a given step only its operation knows.
func (e *Entry) Validate() error {
	if e == nil {
		return nil
	}
	if e.ID.Validate() != nil || e.Key.Validate() != nil {
		return errDamaged
	}
	for _, o := range e.Outputs {
		for _, p := range o.Parts {
			if p.Layer != "" && p.Layer.Validate() != nil || p.Input < 0 || p.Index < 0 || p.Index > maxIndexOfOutput {
				return errDamaged
			}
			// Each input of a step is in at least one part of its key, so a larger number names none.
			if p.Layer == "" && len(e.Inputs) > 0 && p.Input >= len(e.Inputs) {
				return errDamaged
			}
		}
	}
	return nil
}

// entrySet is a set of entries and candidates by key. The store has one for what ran here, and one for the claims of
// each remote cache; no look-up of one set reads another.
type entrySet struct {
	s    *Store
	root string // holds dirEntries and dirCandidates
}

// own returns the entries of steps that ran here.
func (s *Store) own() entrySet { return entrySet{s, s.dir} }

func (t entrySet) entryPath(key digest.Digest) string {
	hex := key.Encoded()
	return filepath.Join(t.root, dirEntries, hex[:2], hex)
}

func (t entrySet) groupPath(group digest.Digest) string {
	hex := group.Encoded()
	return filepath.Join(t.root, dirCandidates, hex[:2], hex)
}

// lookup returns the entry that serves a key, and what After says in the file of that key.
func (t entrySet) lookup(key digest.Digest) (e *Entry, after []string, err error) {
	if err := t.s.gate.enter(); err != nil {
		return nil, nil, wrap("look up", t.s.dir, err)
	}
	defer t.s.gate.leave()
	v, ok := t.s.readEntry(t.entryPath(key))
	after = v.After
	if ok && v.Alias != "" {
		v, ok = t.s.readEntry(t.entryPath(v.Alias))
	}
	if !ok || v.Entry == nil || !t.s.useLayers(v.Entry) {
		return nil, nil, nil
	}
	return v.Entry, after, nil
}

func (t entrySet) write(path string, v stored) error {
	raw, err := encodeEntry(v)
	if err != nil {
		return fmt.Errorf("encode entry: %w", err)
	}
	return wrap("write", path, t.s.writeFile(path, raw))
}

// candidates returns entries of a group whose layers all exist, at most maxCandidates.
func (t entrySet) candidates(group digest.Digest) ([]*Entry, error) {
	if err := t.s.gate.enter(); err != nil {
		return nil, wrap("look up", t.s.dir, err)
	}
	defer t.s.gate.leave()
	dir := t.groupPath(group)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil
	}
	var found []*Entry
	for _, n := range names {
		if len(found) == maxCandidates {
			break
		}
		v, ok := t.s.readEntry(filepath.Join(dir, n.Name()))
		if ok && v.Entry != nil && t.s.useLayers(v.Entry) {
			found = append(found, v.Entry)
		}
	}
	return found, nil
}

func (t entrySet) putCandidate(group digest.Digest, e *Entry) error {
	return t.write(t.candidatePath(group, e), stored{Entry: e})
}

func (t entrySet) candidatePath(group digest.Digest, e *Entry) string {
	return filepath.Join(t.groupPath(group), e.ID.Encoded())
}

// holds reports whether the file at path has exactly this content. It decodes nothing.
func (t entrySet) holds(path string, v stored) bool {
	raw, err := encodeEntry(v)
	if err != nil {
		return false
	}
	got, err := readBounded(path, int64(len(raw)))
	return err == nil && bytes.Equal(raw, got)
}

// stale reports whether an entry or alias of the set can no longer serve a key.
func (t entrySet) stale(path string) bool {
	v, ok := t.s.readEntry(path)
	if ok && v.Alias != "" {
		v, ok = t.s.readEntry(t.entryPath(v.Alias))
	}
	return !ok || v.Entry != nil && !t.s.hasLayers(v.Entry)
}

// Lookup returns the entry that serves a key, directly or through an alias. It returns nil if there is no such entry,
// if its file is damaged, or if one of its own layers is missing. The layers of a returned entry are marked as used.
//
// An alias refers to a key whose file holds an entry, never to another alias: Lookup follows one step only. A longer
// chain would be a miss. TestEntryRoundTrip shows a lookup through an alias, TestDamageIsAMiss all kinds of damage.
func (s *Store) Lookup(key digest.Digest) (*Entry, error) {
	e, _, err := s.own().lookup(key)
	return e, err
}

func (s *Store) readEntry(path string) (stored, bool) {
	raw, err := readBounded(path, maxEntry)
	if err != nil {
		return stored{}, false
	}
	v, err := decodeEntry(raw)
	return v, err == nil
}

// Put stores an entry under its Key. Its own layers must have been committed before, or Lookup does not find it.
func (s *Store) Put(e *Entry) error {
	return s.own().write(s.own().entryPath(e.Key), stored{Entry: e})
}

// Alias makes the entry stored under id serve key too.
func (s *Store) Alias(key, id digest.Digest) error {
	return s.own().write(s.own().entryPath(key), stored{Alias: id})
}

// maxCandidates bounds how many results of one file operation on different file systems are tried.
const maxCandidates = 16

// PutCandidate stores an entry in a group: the results of one file operation on different file systems. Such a result
// may serve another key if all its Lookups give the same answers there. The caller must verify that.
func (s *Store) PutCandidate(group digest.Digest, e *Entry) error {
	return s.own().putCandidate(group, e)
}

// Candidates returns entries of a group whose layers all exist, at most maxCandidates, and marks the layers as used.
func (s *Store) Candidates(group digest.Digest) ([]*Entry, error) { return s.own().candidates(group) }
