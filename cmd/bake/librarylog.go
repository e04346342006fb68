package main

import (
	"bytes"

	"github.com/sirupsen/logrus"
)

// libraryLog writes what libraries log, such as the compose parser, like our own warnings.
type libraryLog struct{}

// Format implements logrus.Formatter.
func (libraryLog) Format(e *logrus.Entry) ([]byte, error) {
	text := bytes.TrimSuffix([]byte(e.Message), []byte("."))
	return append(append([]byte("warning: "), text...), '\n'), nil
}
