package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sort"
	"strings"

	"github.com/moby/patternmatcher"
	"golang.org/x/sync/errgroup"
)

// preload reads a directory and all directories below it in parallel and calls show with each. Errors are dropped: the
// caller gets them again when it uses the directory.
func (l *Local) preload(ctx context.Context, p string, show func(p string, d *localDir)) {
	top, err := l.dir(p)
	if err != nil {
		return
	}
	var group errgroup.Group
	group.SetLimit(min(runtime.GOMAXPROCS(0), 8))
	var read func(p string, d *localDir) error
	read = func(p string, d *localDir) error {
		if ctx.Err() != nil || l.enter(p, d) != nil {
			return nil
		}
		for i := range d.files {
			below := d.file(i).directory()
			if below == nil {
				continue
			}
			child := childOf(p, d.name(i))
			if !group.TryGo(func() error { return read(child, below) }) {
				_ = read(child, below)
			}
		}
		show(p, d)
		return nil
	}
	_ = read(p, top)
	_ = group.Wait()
}

// enter reads a directory, once.
func (l *Local) enter(p string, d *localDir) error {
	d.once.Do(func() { d.err = l.read(p, d) })
	return d.err
}

func (l *Local) read(p string, d *localDir) error {
	changed := l.overrides(p)
	on, err := l.root.dir(p)
	if l.patch != nil && errors.Is(err, fs.ErrNotExist) {
		return l.list(nil, p, d, nil, changed) // only the patch has it
	}
	if err != nil {
		return changedIf(err, p)
	}
	defer on.close()
	names, err := on.names()
	if err != nil {
		return err
	}
	return l.list(on, p, d, names, changed)
}

// list fills a directory with the names on the disk that are not overridden, and with those of the patch.
func (l *Local) list(on *diskDir, p string, d *localDir, names []string, changed map[string]*Entry) error {
	if len(changed) > 0 {
		names = slices.DeleteFunc(names, func(name string) bool { _, other := changed[name]; return other })
		for name, e := range changed {
			if e != nil {
				names = append(names, name)
			}
		}
	}
	sort.Strings(names)
	r, size := reading{files: make([]localFile, 0, len(names))}, 0
	for _, name := range names {
		size += len(name)
	}
	r.text.Grow(size)
	for _, name := range names {
		if err := l.visible(named{on, p, name}, d.match, changed[name], &r); err != nil {
			return err
		}
	}
	if l.stat != nil {
		l.stat.fill(r.files)
	}
	d.files, d.text, d.below = r.files, r.text.String(), r.below
	return nil
}

// named is a name in a directory.
type named struct {
	on        *diskDir // nil where only the patch has the directory
	dir, name string
}

func (n named) path() string { return childOf(n.dir, n.name) }

// reading holds the files of a directory found so far.
type reading struct {
	files []localFile
	text  strings.Builder
	below []*localDir
}

func (r *reading) add(name string, f foundFile) {
	f.at, f.nameSize, f.linkSize = r.text.Len(), uint32(len(name)), uint32(len(f.link))
	r.text.WriteString(name)
	r.text.WriteString(f.link)
	if f.dir != nil {
		r.below = append(r.below, f.dir)
		f.below = int32(len(r.below))
	}
	r.files = append(r.files, f.localFile)
}

// foundFile is a file that was not added to a directory yet.
type foundFile struct {
	localFile
	link string
	dir  *localDir // of a directory
}

// visible adds one name of a directory to r, unless the file is ignored or has just vanished. Its attributes are those
// of the patch in changed, or else those on the disk.
func (l *Local) visible(at named, above patternmatcher.MatchInfo, changed *Entry, r *reading) error {
	ignored, match, err := l.ignored(at, above)
	if err != nil || ignored && len(l.negated) == 0 {
		return err
	}
	var f foundFile
	if changed != nil {
		f = fileOf(changed)
	} else {
		f, err = at.on.stat(at.name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.mode&ModeType == ModeDir {
		f.dir = &localDir{match: match}
	}
	if ignored {
		// An ignored directory is visible if a file below it is not ignored.
		p := at.path()
		if f.dir == nil || !l.mayHold(p) {
			return nil
		}
		if err := l.enter(p, f.dir); err != nil || len(f.dir.files) == 0 {
			return err
		}
	}
	r.add(at.name, f)
	return nil
}

func (l *Local) ignored(at named, above patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo, error) {
	if l.ignore == nil {
		return false, patternmatcher.MatchInfo{}, nil
	}
	p := at.path()
	ignored, match, err := l.ignore.MatchesUsingParentResults(strings.TrimPrefix(p, "/"), above)
	if err != nil {
		return false, match, fmt.Errorf("match %s against the ignore patterns: %w", p, err)
	}
	return ignored, match, nil
}

// mayHold reports whether a "!" pattern can name anything below an ignored directory. Patterns with wildcards can.
func (l *Local) mayHold(p string) bool {
	below := strings.TrimPrefix(p, "/") + "/"
	for _, n := range l.negated {
		literal, _, wild := strings.Cut(n, "*")
		if i := strings.IndexAny(literal, "?[\\"); i >= 0 {
			literal, wild = literal[:i], true
		}
		if strings.HasPrefix(n+"/", below) ||
			wild && (strings.HasPrefix(below, literal) || strings.HasPrefix(literal, below)) {
			return true
		}
	}
	return false
}
