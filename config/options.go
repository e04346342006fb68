package config

import (
	"io"
	"path/filepath"
	"runtime"
	"time"
)

// Options are the arguments of Load.
type Options struct {
	Dir     string   // absolute; the base of relative paths
	Files   []string // -f, by increasing precedence; empty: the usual names, see UsualFiles
	Set     []string // --set
	Vars    []string // --var NAME=VALUE
	Targets []string // names or patterns of targets and groups; empty: "default"
	Env     map[string]string
	// EnvFiles are files of NAME=VALUE lines with lower precedence than Env. If empty, compose files use .env.
	EnvFiles []string
	Stdin    io.Reader // for -f -
	// Definition is the remote source of the files. If nil, they are in Dir.
	Definition *Definition
	View       View          // the source of local files; nil is the disk
	Limit      time.Duration // of the evaluation; 0 is evaluationLimit
	Grants     Grants        // what the user permits; decides which texts of other files messages may show
	Commands   []string      // words that an unknown name in Targets may have been meant as; for messages
}

func (o Options) view() View {
	if o.View == nil {
		return Disk{}
	}
	return o.View
}

func (o Options) platform() string { return "linux/" + runtime.GOARCH }

// Warning describes a part of a project file that has no effect, or not the effect it seems to have.
type Warning struct {
	Range   Range
	Message string
}

// Absolute returns path as a clean absolute path. A relative path is relative to dir.
func Absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// absolute returns p joined to the directory of the project, unless p is absolute already.
func (o Options) absolute(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(o.Dir, p)
}
