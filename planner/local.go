package planner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/bakebuild/bake/config"
)

// maxFile bounds a Dockerfile and an ignore file, in bytes.
const maxFile = 16 << 20

// localDir is a directory of the host, by the name that it has in the graph.
type localDir struct {
	name    string // see localName
	dir     string // absolute
	fetched bool   // what a URL brought: nothing in it may lead out of it
}

// findDir makes a localDir of a path as written in a target. what says what it is for.
func (p *plan) findDir(t *config.Target, attribute, what, written string) (localDir, error) {
	dir := strings.TrimPrefix(written, "cwd://")
	if dir == "" {
		dir = "."
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(p.project.Dir, dir)
	}
	dir = filepath.Clean(dir)
	folder, err := p.opts.View.Folder(dir)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return localDir{}, p.targetError(t, attribute, fmt.Errorf("%s %s is not a directory", what, written))
	case errors.Is(err, fs.ErrNotExist):
		return localDir{}, p.targetError(t, attribute, fmt.Errorf(
			"%s %s: there is no such directory in %s: create it, or correct the target's %s", what, dirWords(written), p.project.Dir, attribute))
	case err != nil:
		return localDir{}, p.targetError(t, attribute, fmt.Errorf("%s %s: %w", what, written, cause(err)))
	}
	p.files.noteDir(dir, folder)
	return localDir{name: localName(p.project.Dir, written, dir), dir: folder}, nil
}

func dirWords(written string) string {
	if written == "" {
		return "."
	}
	return written
}

// localName is the name of a directory in the graph: relative to the project directory, so that a plan does not depend
// on where the project is checked out; absolute only for a directory outside that was written so.
func localName(project, written, dir string) string {
	rel, err := filepath.Rel(project, dir)
	if err != nil {
		return filepath.ToSlash(dir)
	}
	outside := rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator))
	if outside && filepath.IsAbs(written) {
		return filepath.ToSlash(dir)
	}
	return filepath.ToSlash(rel)
}

// displayPath is how messages and locations name a file.
func (p *plan) displayPath(path string) string {
	rel, err := filepath.Rel(p.project.Dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return path
	}
	return filepath.ToSlash(rel)
}

// files reads small files of the host, each once in a plan. What it was asked for is what a plan is made of.
type files struct {
	mu   sync.Mutex
	read map[string]*fileRead
	dirs map[string]string // that had to be there, and as what the view names each
	view config.View
	// fetched says that some files were brought by a URL.
	fetched bool
}

// noteDir notes that a directory had to be there, and as what the view names it.
func (f *files) noteDir(dir, folder string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirs[dir] = folder
}

// paths are the files that were read or looked for.
func (f *files) paths() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.read))
}

// noteFetched notes that a URL was fetched.
func (f *files) noteFetched() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fetched = true
}

type fileRead struct {
	once sync.Once
	data []byte
	err  error
}

// get gives the content of a regular file of at most maxFile bytes. The caller must not change it.
func (f *files) get(path string) ([]byte, error) {
	f.mu.Lock()
	r, ok := f.read[path]
	if !ok {
		r = &fileRead{}
		f.read[path] = r
	}
	f.mu.Unlock()
	r.once.Do(func() {
		var at string
		if at, r.err = f.view.File(path); r.err == nil {
			r.data, r.err = readFile(at)
		}
	})
	return r.data, r.err
}

// getIn gives the content of a file that a directory names; links of a fetched one do not lead out of it.
func (f *files) getIn(in localDir, path string) ([]byte, error) {
	if in.fetched {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, err
		}
		root, err := filepath.EvalSymlinks(in.dir)
		if err != nil {
			return nil, err
		}
		if rel, err := filepath.Rel(root, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return nil, fmt.Errorf("it leads out of %s", in.name)
		}
		path = real
	}
	return f.get(path)
}

func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO would wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("is bigger than %d bytes", maxFile)
	}
	return data, nil
}

// dirFiles reads the ignore file of a context directory.
type dirFiles struct {
	dir   localDir
	files *files
}

func (d dirFiles) read(name string) ([]byte, error) {
	return d.files.getIn(d.dir, filepath.Join(d.dir.dir, filepath.FromSlash(name)))
}

// cause is an error of a file operation without the operation and path, which the message around it has.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
