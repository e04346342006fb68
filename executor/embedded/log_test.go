package embedded

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fullFile fails while full is set, after the first half of a piece.
type fullFile struct {
	bytes.Buffer
	full bool
}

func (f *fullFile) Write(p []byte) (int, error) {
	if !f.full {
		return f.Buffer.Write(p)
	}
	n, _ := f.Buffer.Write(p[:len(p)/2])
	return n, unix.ENOSPC
}

func (f *fullFile) Close() error { return nil }

// TestLogOnFullDisk: a log that could not be written says what is missing, and the display says so once.
func TestLogOnFullDisk(t *testing.T) {
	var shown strings.Builder
	file := &fullFile{}
	l := &stepLog{file: file, name: "x", send: func(_ int, p []byte) { shown.Write(p) }}
	l.write(1, []byte("one\n"))
	file.full = true
	l.write(1, []byte("lost"))
	l.write(1, []byte("lost too\n"))
	file.full = false
	l.write(1, []byte("two\n"))
	l.close()
	if n := strings.Count(shown.String(), "[output is missing from its log: no space left on device]"); n != 1 {
		t.Errorf("said %d times:\n%s", n, shown.String())
	}
	for _, want := range []string{"one\nlo", " bytes of output could not be stored]\n", "two\n"} {
		if !strings.Contains(file.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, file.String())
		}
	}
	if !strings.Contains(shown.String(), "lost too\ntwo\n") {
		t.Errorf("shown:\n%s", shown.String())
	}
}
