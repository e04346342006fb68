package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache/key"
)

// Bounds of the record of past runs. If a file grows beyond its bound, its older half is dropped.
const (
	maxPast     = 512 << 10 // bytes of the file of one place
	maxPastLine = 64 << 10  // bytes of one run; a larger one is not recorded
	maxList     = 8 << 20   // bytes of a list of files
)

// PastRun describes one run of a step, so that a later run can be compared with it. It outlives the step's entry.
type PastRun struct {
	Number      string `json:",omitempty"` // of the step in its stage
	Instruction string // its text in the Dockerfile
	Dir         string `json:",omitempty"` // in which the build ran
	Base        string `json:",omitempty"` // the step's base image with its digest; "" for none, or if unknown
	At          time.Time
	// Inputs are the parts of the step's key. In a result of PastRuns they are nil until Load.
	Inputs []key.Part `json:"-"`
	raw    []byte
}

// Load decodes Inputs. They stay nil if they are damaged.
func (r *PastRun) Load() {
	if r.Inputs == nil && json.Unmarshal(r.raw, &r.Inputs) != nil {
		r.Inputs = nil
	}
}

func (s *Store) pastPath(place digest.Digest) string { return s.path(dirPast, place.Encoded()) }

// PastRuns returns the recorded runs at a place, oldest first, without their Inputs. The caller defines what a place
// is. Damaged records are skipped: past runs only explain, no result depends on them.
//
// In the file, each run is a line: JSON, a tab, and the inputs as JSON. The inputs are decoded separately since few of
// many runs are compared.
func (s *Store) PastRuns(place digest.Digest) []PastRun {
	raw, err := readBounded(s.pastPath(place), 2*maxPast)
	if err != nil {
		return nil
	}
	var runs []PastRun
	for line := range bytes.Lines(raw) {
		head, inputs, _ := bytes.Cut(line, []byte("\t"))
		r := PastRun{raw: inputs}
		if json.Unmarshal(head, &r) == nil && len(inputs) > 0 {
			runs = append(runs, r)
		}
	}
	return runs
}

// AddPastRuns records runs at a place.
func (s *Store) AddPastRuns(place digest.Digest, runs []PastRun) error {
	var added []byte
	for _, r := range runs {
		head, err := json.Marshal(r)
		if err != nil {
			return err
		}
		inputs, err := json.Marshal(r.Inputs)
		if err != nil {
			return err
		}
		if line := append(append(append(head, '\t'), inputs...), '\n'); len(line) <= maxPastLine {
			added = append(added, line...)
		}
	}
	path := s.pastPath(place)
	lock, err := lockFile(s.path(dirLocks, "past"), unix.LOCK_EX)
	if err != nil {
		return wrap("lock", path, err)
	}
	defer lock.Close()
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size()+int64(len(added)) <= maxPast {
		s.added.Add(int64(len(added)))
		return wrap("write", path, appendTo(path, added))
	}
	old, err := readBounded(path, 2*maxPast)
	if err != nil {
		old = nil // missing or damaged
	}
	kept := old[len(old)/2:]
	kept = kept[bytes.IndexByte(kept, '\n')+1:]
	if over := len(kept) + len(added) - maxPast; over > 0 {
		kept = nil
	}
	return wrap("write", path, s.writeFile(path, append(bytes.Clone(kept), added...)))
}

func appendTo(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Close())
}
