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

// Limits of a record, which is the file of a Run: a line with its summary as JSON, then the Run as compressed JSON.
const (
	maxSummary = 1 << 20   // bytes of the first line
	maxRecord  = 512 << 20 // bytes of the Run before compression
)

// Summary holds the facts about a build that a list of builds shows.
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

// maxSummaryTargets limits the number of targets in a summary.
const maxSummaryTargets = 20

// Summary returns the summary of the run.
func (r Run) Summary() Summary {
	s := Summary{
		Version: r.Version, ID: r.ID, Status: r.Status, Session: r.Session, Started: r.Started, Completed: r.Completed,
		Dir:     r.Dir,
		Targets: r.Targets[:min(len(r.Targets), maxSummaryTargets)], Steps: len(r.Steps),
		Ran: r.Count(executor.StatusRan), Cached: r.Count(executor.StatusCached),
		Failed: r.Count(executor.StatusFailed),
	}
	s.More = len(r.Targets) - len(s.Targets)
	return s
}

// Encode returns the record of a run.
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

// DecodeSummary decodes only the summary of a record. It may read more of r than the summary.
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

// ErrNewer reports that a record was written by a newer version of bake.
var ErrNewer = errors.New("recorded by a newer version of bake")

// Decode decodes a record.
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
		return r, fmt.Errorf("decompress the record of a build: %w", err)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("read the record of a build: %w", err)
	}
	return r, nil
}
