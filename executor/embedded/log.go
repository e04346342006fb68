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
// display, and the end is kept in memory. If the file cannot be written, output is missing from it.
type stepLog struct {
	mu      sync.Mutex
	file    *os.File
	send    func(stream int, p []byte)
	written int64
	sent    int64
	tail    []byte
}

// newStepLog writes to file, which it closes. send receives each piece of output and must not keep it.
func newStepLog(file *os.File, send func(stream int, p []byte)) *stepLog {
	return &stepLog{file: file, send: send}
}

// path returns the path of the log.
func (l *stepLog) path() string { return l.file.Name() }

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
	if room := maxLogFile - l.written; room > 0 {
		// A log that cannot be written, for example on a full disk, must not fail the step.
		n, _ := l.file.Write(p[:min(int64(len(p)), room)])
		l.written += int64(n)
		if l.written == maxLogFile {
			_, _ = fmt.Fprintf(l.file, "\n[output exceeds %d MiB: the rest is not stored]\n", maxLogFile>>20)
		}
	}
	if room := maxLogSent - l.sent; room > 0 {
		part := p[:min(int64(len(p)), room)]
		l.sent += int64(len(part))
		l.send(stream, part)
		if l.sent == maxLogSent {
			l.send(stream, fmt.Appendf(nil, "\n[output truncated after %d MiB; more is in %s]\n",
				maxLogSent>>20, l.path()))
		}
	}
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
func (l *stepLog) close() error { return l.file.Close() }
