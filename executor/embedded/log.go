package embedded

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/bakebuild/bake/executor"
)

// Bounds of the output of one step. Memory use is at most maxTail plus one write.
const (
	maxLogFile = 256 << 20 // bytes of a step's log on disk
	maxLogSent = 2 << 20   // bytes of a step's log that are shown
	maxTail    = 16 << 10  // bytes kept for the error of a failed step
	tailLines  = 20
)

// stepLog receives the output of one step. The first maxLogFile bytes go to a file, the first maxLogSent bytes to the
// display, and the end is kept in memory.
//
// A log that cannot be written, for example on a full disk, does not fail the step, whose result does not depend on it.
// But the log must not look complete: the display says so once, and where the file can be written again, it says how
// much is missing.
type stepLog struct {
	mu       sync.Mutex
	file     io.WriteCloser
	name     string // path of the file
	lost     int64  // bytes that could not be written since the last one that was
	reported bool   // the display has said that output is not stored
	send     func(stream int, p []byte)
	written  int64
	sent     int64
	tail     []byte
}

// newStepLog writes to file, which it closes. send receives each piece of output and must not keep it.
func newStepLog(file *os.File, send func(stream int, p []byte)) *stepLog {
	return &stepLog{file: file, name: file.Name(), send: send}
}

// path returns the path of the log.
func (l *stepLog) path() string { return l.name }

// stream returns the writer for output stream 1 or 2. It masks the secrets.
func (l *stepLog) stream(n int, secrets [][]byte) io.WriteCloser {
	return executor.NewMasker(secrets, func(p []byte) { l.write(n, p) })
}

func (l *stepLog) write(stream int, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if over := len(l.tail) - maxTail; over > 0 {
		l.tail = append(l.tail[:0], l.tail[over:]...)
	}
	err := l.store(p)
	if room := maxLogSent - l.sent; room > 0 {
		part := p[:min(int64(len(p)), room)]
		l.sent += int64(len(part))
		l.send(stream, part)
		if l.sent == maxLogSent {
			l.send(stream, fmt.Appendf(nil, "\n[output truncated after %d MiB; more is in %s]\n",
				maxLogSent>>20, l.path()))
		}
	}
	l.report(stream, err)
}

// store writes a piece of output to the file. It returns the error of a piece that is not stored.
func (l *stepLog) store(p []byte) error {
	room := maxLogFile - l.written
	if room <= 0 {
		return nil
	}
	p = p[:min(int64(len(p)), room)]
	if l.lost > 0 {
		if _, err := fmt.Fprintf(l.file, "\n[%d bytes of output could not be stored]\n", l.lost); err != nil {
			l.lost += int64(len(p))
			return err
		}
		l.lost = 0
	}
	n, err := l.file.Write(p)
	l.lost += int64(len(p) - n)
	if l.written += int64(n); l.written == maxLogFile && err == nil {
		_, err = fmt.Fprintf(l.file, "\n[output exceeds %d MiB: the rest is not stored]\n", maxLogFile>>20)
	}
	return err
}

// report sends an error of the file to the display, once.
func (l *stepLog) report(stream int, err error) {
	if err == nil || l.reported {
		return
	}
	l.reported = true
	l.send(stream, fmt.Appendf(nil, "\n[output is missing from its log: %v]\n", err))
}

// last returns the last lines of output.
func (l *stepLog) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := bytes.TrimRight(l.tail, "\n")
	if len(text) == 0 {
		return nil
	}
	lines := bytes.Split(text, []byte("\n"))
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = string(bytes.TrimSuffix(line, []byte("\r")))
	}
	return out
}

// close closes the log.
func (l *stepLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report(2, l.file.Close())
}
