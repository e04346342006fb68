package config

import (
	"io"
	"path/filepath"
	"runtime"
	"time"
)

// Options says what to load.
type Options struct {
	Dir      string   // absolute; where project files and relative paths of targets are looked for
	Files    []string // -f, in order of rank; empty: the usual names
	Set      []string // --set
	Vars     []string // --var NAME=VALUE
	Targets  []string // names or patterns of targets and groups; empty: "default"
	Env      map[string]string
	EnvFiles []string  // files of NAME=VALUE lines below the environment in rank; none: .env, for compose files alone
	Stdin    io.Reader // for -f -
	// Definition is where the files are; nil is Dir.
	Definition *Definition
	View       View          // what the files of this machine are read of; nil is the disk
	Limit      time.Duration // how long the evaluation may take; 0 is 20 seconds
}

func (o Options) view() View {
	if o.View == nil {
		return Disk{}
	}
	return o.View
}

func (o Options) platform() string { return "linux/" + runtime.GOARCH }

// Warning is something in a file that has no effect, or not the one that it seems to have.
type Warning struct {
	Range   Range
	Message string
}

// Absolute returns a clean absolute path. A relative path is below dir.
func Absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// absolute is a path relative to the project's directory.
func (o Options) absolute(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(o.Dir, p)
}
