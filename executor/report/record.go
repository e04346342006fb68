package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/bakebuild/bake/executor"
)

// A record is a Run in a file: a line with its summary as JSON, then the Run as JSON, compressed.
const (
	maxSummary = 1 << 20   // bytes of the first line
	maxRecord  = 512 << 20 // bytes of the Run, not compressed
)

// Summary is what a list of builds shows of one.
type Summary struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Status    Status    `json:"status"`
	Session   string    `json:"session,omitempty"`
	Started   time.Time `json:"started"`
	Completed time.Time `json:"completed"`
	Dir       string    `json:"dir"`
	Targets   []string  `json:"targets"` // at most maxSummaryTargets
	More      int       `json:"more,omitempty"`
	Steps     int       `json:"steps"`
	Ran       int       `json:"ran"`
	Cached    int       `json:"cached"`
	Failed    int       `json:"failed"`
}

// maxSummaryTargets is how many targets a summary names.
const maxSummaryTargets = 20

// Summary sums the run up.
func (r Run) Summary() Summary {
	s := Summary{
		Version: r.Version, ID: r.ID, Status: r.Status, Session: r.Session, Started: r.Started, Completed: r.Completed, Dir: r.Dir,
		Targets: r.Targets[:min(len(r.Targets), maxSummaryTargets)], Steps: len(r.Steps),
		Ran: r.Count(executor.StatusRan), Cached: r.Count(executor.StatusCached), Failed: r.Count(executor.StatusFailed),
	}
	s.More = len(r.Targets) - len(s.Targets)
	return s
}

// Encode makes the record of a run.
func Encode(r Run) ([]byte, error) {
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(r.Summary()); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(body, out.Bytes()), nil
}

// DecodeSummary reads the summary of a record, and no more than that.
func DecodeSummary(r io.Reader) (Summary, error) {
	var s Summary
	line, err := bufio.NewReader(io.LimitReader(r, maxSummary)).ReadBytes('\n')
	if err != nil {
		return s, fmt.Errorf("read the summary of a build: %w", err)
	}
	if err := json.Unmarshal(line, &s); err != nil {
		return s, fmt.Errorf("read the summary of a build: %w", err)
	}
	return s, nil
}

// ErrNewer says that a record was written by a later version of bake.
var ErrNewer = errors.New("it was recorded by a newer version of bake")

// Decode reads a record.
func Decode(raw []byte) (Run, error) {
	var r Run
	s, err := DecodeSummary(bytes.NewReader(raw))
	if err != nil {
		return r, err
	}
	if s.Version != RunVersion {
		return r, ErrNewer
	}
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRecord))
	if err != nil {
		return r, err
	}
	defer zr.Close()
	body, err := zr.DecodeAll(raw[bytes.IndexByte(raw, '\n')+1:], nil)
	if err != nil {
		return r, fmt.Errorf("unpack the record of a build: %w", err)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("read the record of a build: %w", err)
	}
	return r, nil
}
