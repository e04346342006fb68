package builds

import (
	"os"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
)

// maxStepLog bounds the stored output of one step, in bytes.
const maxStepLog = 256 << 20

// stepLogs stores the output of steps. A log that cannot be written must not fail the step, so errors are ignored.
type stepLogs struct {
	store *cache.Store
	files map[digest.Digest]*os.File // nil for a log that could not be created
	wrote map[digest.Digest]int64    // bytes
}

func newStepLogs(s *cache.Store) *stepLogs {
	return &stepLogs{store: s, files: map[digest.Digest]*os.File{}, wrote: map[digest.Digest]int64{}}
}

func (l *stepLogs) write(e executor.Event) {
	f, ok := l.files[e.Step]
	if !ok {
		f, _ = l.store.NewLog(e.Step)
		l.files[e.Step] = f
	}
	if f == nil || l.wrote[e.Step] >= maxStepLog {
		return
	}
	n, _ := f.Write(e.Log)
	l.wrote[e.Step] += int64(n)
}

// close closes the logs and returns their paths by step.
func (l *stepLogs) close() map[digest.Digest]string {
	names := map[digest.Digest]string{}
	for step, f := range l.files {
		if f != nil {
			names[step] = f.Name()
			_ = f.Close()
		}
	}
	return names
}
