package builds

import (
	"errors"
	"os"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
)

// maxStepLog bounds the stored output of one step, in bytes.
const maxStepLog = 256 << 20

// stepLogs stores the output of steps. No log stays open, since a build may have thousands of steps. A log that cannot
// be written does not fail the step; warn gets the first error.
type stepLogs struct {
	store  *cache.Store
	warn   func(error)
	warned bool
	paths  map[digest.Digest]string // "" for a log that could not be created
	wrote  map[digest.Digest]int64  // bytes
}

func newStepLogs(s *cache.Store, warn func(error)) *stepLogs {
	return &stepLogs{store: s, warn: warn, paths: map[digest.Digest]string{}, wrote: map[digest.Digest]int64{}}
}

func (l *stepLogs) write(e executor.Event) {
	if err := l.append(e); err != nil && !l.warned {
		l.warned = true
		l.warn(&cache.Error{Op: "store the output of steps in", Path: l.store.Dir(), Err: err})
	}
}

func (l *stepLogs) append(e executor.Event) error {
	path, ok := l.paths[e.Step]
	if !ok {
		f, err := l.store.NewLog(e.Step)
		if err == nil {
			path, err = f.Name(), f.Close()
		}
		l.paths[e.Step] = path
		if err != nil {
			return err
		}
	}
	if path == "" || l.wrote[e.Step] >= maxStepLog {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	n, err := f.Write(e.Log)
	l.wrote[e.Step] += int64(n)
	return errors.Join(err, f.Close())
}

// close returns the paths of the logs by step.
func (l *stepLogs) close() map[digest.Digest]string {
	names := map[digest.Digest]string{}
	for step, path := range l.paths {
		if path != "" {
			names[step] = path
		}
	}
	return names
}
