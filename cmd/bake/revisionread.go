package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// listing is what git says of a commit and of how the working tree differs from it. Paths are below the top of the checkout.
type listing struct {
	objects map[string]*object // of the commit, its folders among them
	changed []string           // tracked files that are not as in the commit
	others  []string           // what git does not track; a folder of which it tracks nothing has a slash behind it
	absent  []string           // tracked files that git does not look at: a sparse checkout leaves them out, or they count as unchanged
}

// list asks git about a commit.
func (r repository) list(ctx context.Context, commit string) (l listing, err error) {
	group, ctx := errgroup.WithContext(ctx)
	ask := func(into *[]string, args ...string) {
		group.Go(func() (err error) { *into, err = r.paths(ctx, args...); return err })
	}
	var entries, tagged []string
	ask(&entries, "ls-tree", "-r", "-t", "-z", "--full-tree", commit)
	ask(&l.changed, "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-relative",
		"--ignore-submodules=untracked", commit, "--") // whatever git's settings ignore
	ask(&l.others, "ls-files", "--others", "--directory", "-z")
	ask(&tagged, "ls-files", "-v", "-z")
	if err := group.Wait(); err != nil {
		return l, err
	}
	for _, line := range tagged {
		if tag, path, ok := strings.Cut(line, " "); ok && (tag == "S" || strings.ToLower(tag) == tag && tag != "?") {
			l.absent = append(l.absent, path)
		}
	}
	l.objects = make(map[string]*object, len(entries))
	for _, line := range entries {
		path, o, err := parseEntry(line)
		if err != nil {
			return l, err
		}
		l.objects[path] = o
	}
	return l, nil
}

// parseEntry reads a line of ls-tree: MODE TYPE ID, a tab, PATH.
func parseEntry(line string) (string, *object, error) {
	facts, path, ok := strings.Cut(line, "\t")
	fields := strings.Fields(facts)
	if !ok || len(fields) != 3 {
		return "", nil, fmt.Errorf("git ls-tree printed %q", line)
	}
	o := &object{id: fields[2]}
	switch fields[0] {
	case "040000":
		o.Mode, o.id = unix.S_IFDIR|0o755, ""
	case "120000":
		o.Mode = unix.S_IFLNK | 0o777
	case "160000":
		o.Mode = unix.S_IFREG // with no permissions: a submodule
	case "100755":
		o.Mode = unix.S_IFREG | 0o755
	default:
		o.Mode = unix.S_IFREG | 0o644
	}
	return path, o, nil
}

// revision makes the view of a commit.
func (r repository) revision(ctx context.Context, commit string, objects *objects, temp string) (*revision, error) {
	l, err := r.list(ctx, commit)
	if err != nil {
		return nil, err
	}
	v := &revision{objects: objects, temp: temp, changes: map[string]map[string]*object{}, above: map[string]bool{}}
	for _, path := range l.others {
		if err := r.hide(ctx, v, l, path); err != nil {
			return nil, err
		}
	}
	for path, o := range l.objects {
		if !o.submodule() {
			continue
		}
		if err := r.hideInside(ctx, v, path); err != nil {
			return nil, err
		}
	}
	for _, paths := range [][]string{l.changed, l.absent} {
		for _, path := range paths {
			if err := r.takeOver(v, l, path); err != nil {
				return nil, err
			}
		}
	}
	return v, r.convert(v, l)
}

// hide takes what is not tracked out of a commit's view.
func (r repository) hide(ctx context.Context, v *revision, l listing, path string) error {
	dir, isDir := strings.CutSuffix(path, "/")
	if !isDir || l.objects[dir] == nil {
		v.change(filepath.Join(r.top, path), nil)
		return nil
	}
	inside, err := r.paths(ctx, "ls-files", "--others", "-z", "--", ":(literal)"+dir)
	for _, one := range inside {
		v.change(filepath.Join(r.top, one), nil)
	}
	return err
}

// hideInside takes what a submodule does not track out of a commit's view.
func (r repository) hideInside(ctx context.Context, v *revision, path string) error {
	inner := repository{filepath.Join(r.top, path)}
	if _, err := os.Lstat(filepath.Join(inner.top, ".git")); err != nil {
		return nil // it is not checked out
	}
	l, err := inner.inside(ctx)
	if err != nil {
		return fmt.Errorf("submodule %s: %w", path, err)
	}
	for _, one := range l.others {
		if err := inner.hide(ctx, v, l, one); err != nil {
			return err
		}
	}
	for one := range l.objects {
		if err := inner.hideInside(ctx, v, one); err != nil {
			return err
		}
	}
	return nil
}

// inside is what git says of a submodule's working tree: what is not tracked, and the submodules of its own as objects.
func (r repository) inside(ctx context.Context) (l listing, err error) {
	if l.others, err = r.paths(ctx, "ls-files", "--others", "--directory", "-z"); err != nil {
		return l, err
	}
	staged, err := r.paths(ctx, "ls-files", "--stage", "-z")
	l.objects = map[string]*object{}
	for _, line := range staged {
		if facts, path, ok := strings.Cut(line, "\t"); ok && strings.HasPrefix(facts, "160000 ") {
			l.objects[path] = &object{Entry: tree.Entry{Mode: unix.S_IFREG}}
		}
	}
	return l, err
}

// takeOver makes a path what it is in the commit, and so the folders above it.
func (r repository) takeOver(v *revision, l listing, path string) error {
	o := l.objects[path]
	if o != nil {
		if err := r.complete(v, o, path); err != nil {
			return err
		}
	}
	v.change(filepath.Join(r.top, path), o)
	there := true
	for _, dir := range foldersOf(path) {
		at := filepath.Join(r.top, dir)
		if there { // below what is no folder there is nothing, wherever a link leads
			info, err := os.Lstat(at)
			there = err == nil && info.IsDir()
		}
		if there != (l.objects[dir] != nil) {
			v.change(at, l.objects[dir])
		}
	}
	return nil
}

// foldersOf are the folders that a relative path is in, the topmost first.
func foldersOf(path string) []string {
	var all []string
	for i, c := range path {
		if c == '/' {
			all = append(all, path[:i])
		}
	}
	return all
}

// complete reads where a link leads, and gives a file the permissions that it has in the working tree, where git sees no difference:
// it keeps only whether a file may be executed.
func (r repository) complete(v *revision, o *object, path string) error {
	if o.IsLink() {
		var to bytes.Buffer
		err := v.objects.read(o.id, unix.PathMax, &to)
		o.Link = to.String()
		return err
	}
	var now unix.Stat_t
	if o.submodule() || unix.Lstat(filepath.Join(r.top, path), &now) != nil {
		return nil
	}
	if now.Mode&unix.S_IFMT == o.Mode&unix.S_IFMT && (now.Mode^o.Mode)&0o100 == 0 {
		o.Mode = now.Mode
	}
	return nil
}

// attributesName is the file that says how others are written to the disk.
const attributesName = ".gitattributes"

// maxAttributes bounds it, in bytes.
const maxAttributes = 1 << 20

// convert makes files other ones where the commit has attributes that write them otherwise than those of the working tree.
func (r repository) convert(v *revision, l listing) error {
	for _, path := range l.changed {
		if filepath.Base(path) != attributesName {
			continue
		}
		var then bytes.Buffer
		if o := l.objects[path]; o != nil && !o.IsDir() {
			if err := v.objects.read(o.id, maxAttributes, &then); err != nil {
				return err
			}
		}
		now, err := os.ReadFile(filepath.Join(r.top, path))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		before, after := conversions(then.String()), conversions(string(now))
		if before == after {
			continue
		}
		below := strings.TrimPrefix(filepath.Dir(path)+"/", "./")
		for file, o := range l.objects {
			if strings.HasPrefix(file, below) && o.IsRegular() {
				o.converted += "\n" + path + "\n" + before
				if err := r.takeOver(v, l, file); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// conversions are the lines of attributes that can change what is written to the disk.
func conversions(attributes string) string {
	words := []string{"text", "eol", "crlf", "filter", "ident", "working-tree-encoding", "binary", "[attr]"}
	var all strings.Builder
	for line := range strings.Lines(attributes) {
		if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(line, word) }) {
			all.WriteString(line)
		}
	}
	return all.String()
}
