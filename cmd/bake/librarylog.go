package main

import (
	"bytes"
	"io"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
)

// libraryLog writes what libraries log, such as the compose parser, like our own warnings. While it holds lines it
// writes none, so that no warning precedes an error, and each comes once. A nil libraryLog holds nothing.
type libraryLog struct {
	w       io.Writer
	mu      sync.Mutex
	holding bool
	held    []string
}

// maxHeld bounds the lines that a libraryLog holds.
const maxHeld = 100

// Format implements logrus.Formatter.
func (l *libraryLog) Format(e *logrus.Entry) ([]byte, error) {
	text := bytes.TrimSuffix([]byte(e.Message), []byte("."))
	return append(append([]byte("warning: "), text...), '\n'), nil
}

// Write gets a formatted line.
func (l *libraryLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.holding {
		return l.w.Write(line)
	}
	if text := string(line); len(l.held) < maxHeld && !slices.Contains(l.held, text) {
		l.held = append(l.held, text)
	}
	return len(line), nil
}

// hold makes l hold lines until release is called, which writes or drops them.
func (l *libraryLog) hold() (release func(show bool)) {
	if l == nil {
		return func(bool) {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holding = true
	return func(show bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, line := range l.held {
			if show {
				_, _ = io.WriteString(l.w, line)
			}
		}
		l.holding, l.held = false, nil
	}
}
