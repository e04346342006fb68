package planner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"

	"github.com/bakebuild/bake/config"
)

// maxFile bounds a Dockerfile and an ignore file, in bytes.
const maxFile = 16 << 20

// localDir is a directory of the host and its name in the graph.
type localDir struct {
	name string // see localName
	dir  string // absolute
	// url is where the directory was downloaded from, or "". Links in it must not lead outside.
	url  string
	file bool // the URL is a file: the only one in dir is ContextFile
	time time.Time
}

// findDir returns the localDir of a path in a target's attribute. what names the path's purpose in messages.
func (p *plan) findDir(t *config.Target, attribute, what, written string) (localDir, error) {
	dir := written
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
		return localDir{}, p.targetError(t, attribute,
			fmt.Errorf("%s %s: no such directory (relative to %s); create it, or correct the target's %s",
				what, dirOrDot(written), p.project.Dir, attribute))
	case err != nil:
		return localDir{}, p.targetError(t, attribute, fmt.Errorf("%s %s: %w", what, written, cause(err)))
	}
	p.files.noteDir(dir, folder)
	return localDir{name: localName(p.project.Dir, written, dir), dir: folder}, nil
}

// dirOrDot returns a directory for messages; "" is the current directory.
func dirOrDot(written string) string {
	if written == "" {
		return "."
	}
	return written
}

// localName returns the name of a directory in the graph. It is relative to the project directory, so that a plan does
// not depend on where the project is checked out. Only a directory outside the project that is written as an absolute
// path keeps that path.
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

// displayPath returns a path for messages and locations: in a downloaded context, its URL with the path; else relative
// to the project directory if below it.
func (p *plan) displayPath(in localDir, path string) string {
	if in.url != "" {
		return in.displayURL(path)
	}
	rel, err := filepath.Rel(p.project.Dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return path
	}
	return filepath.ToSlash(rel)
}

// displayURL returns the URL of a file in a downloaded context: with the path after the reference and directory, as git
// URLs are written.
func (d localDir) displayURL(file string) string {
	rel, err := filepath.Rel(d.dir, file)
	if d.file || err != nil || rel == "." {
		return redacted(d.url)
	}
	base, fragment, _ := strings.Cut(d.url, "#")
	ref, sub, _ := strings.Cut(fragment, ":")
	if git, isGit, err := dfgitutil.ParseGitRef(d.url); isGit && err == nil {
		base, ref, sub = git.Remote, git.Ref, git.SubDir
	}
	return redacted(base) + "#" + ref + ":" + path.Join(sub, filepath.ToSlash(rel))
}

// files reads small files of the host, each once per plan, and records every lookup. The records are the inputs of the
// plan; see memo.
type files struct {
	mu   sync.Mutex
	read map[string]*fileRead
	dirs map[string]string // context directories to their paths in the view
	view config.View
	// fetched reports whether a URL was downloaded.
	fetched bool
}

// noteDir records a context directory and its path in the view.
func (f *files) noteDir(dir, folder string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirs[dir] = folder
}

// paths returns the files that were read or found missing, sorted.
func (f *files) paths() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.read))
}

// noteFetched records that a URL was downloaded.
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

// get returns the content of a regular file of at most maxFile bytes. The caller must not change it.
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

// getIn returns the content of a file in a directory. In a downloaded directory, symbolic links must not lead outside.
func (f *files) getIn(in localDir, path string) ([]byte, error) {
	if in.url != "" {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, err
		}
		root, err := filepath.EvalSymlinks(in.dir)
		if err != nil {
			return nil, err
		}
		if rel, err := filepath.Rel(root, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return nil, fmt.Errorf("it is a link to a file outside %s", in.name)
		}
		path = real
	}
	return f.get(path)
}

func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO would block until a writer opens it.
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
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return data, nil
}

// dirFiles reads the ignore file of a context directory.
type dirFiles struct {
	dir   localDir
	files *files
}

func (d dirFiles) read(name string) ([]byte, error) {
	data, err := d.files.getIn(d.dir, filepath.Join(d.dir.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	return shortIgnore(path.Join(d.dir.name, name), data)
}

// cause strips the operation and path from an error of a file operation, because the caller's message contains them.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
