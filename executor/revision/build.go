package revision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// View returns the view of a commit, by its id.
func (c *Checkout) View(ctx context.Context, commit string) (*View, error) {
	l, err := c.list(ctx, commit)
	if err != nil {
		return nil, err
	}
	v := &View{blobs: c.blobs, changes: map[string]map[string]*object{}, above: map[string]bool{}}
	for _, path := range l.untracked {
		if err := c.hide(v, l, path); err != nil {
			return nil, err
		}
	}
	for path, o := range l.objects {
		if !o.submodule() {
			continue
		}
		if err := c.hideInside(ctx, v, path); err != nil {
			return nil, err
		}
	}
	for _, path := range slices.Concat(l.changed, l.unseen) {
		if err := c.restore(v, l, path); err != nil {
			return nil, err
		}
	}
	return v, c.convert(v, l)
}

// hide removes an untracked file or folder from the view. Of a folder that the commit has too, it removes what the
// commit does not have there, empty folders included: git ls-files lists no empty folder below another.
func (r repository) hide(v *View, l listing, path string) error {
	path, isDir := strings.CutSuffix(path, "/")
	o := l.objects[path]
	switch {
	case o == nil:
		v.change(filepath.Join(r.top, path), nil)
		return nil
	case !isDir || !o.IsDir(): // restore makes it what it is in the commit
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(r.top, path))
	for _, e := range entries {
		inside := path + "/" + e.Name()
		if e.IsDir() {
			inside += "/"
		}
		err = errors.Join(err, r.hide(v, l, inside))
	}
	return err
}

// hideInside removes the files that a submodule does not track from the view, and those of its own submodules.
func (r repository) hideInside(ctx context.Context, v *View, path string) error {
	inner := repository{filepath.Join(r.top, path)}
	if _, err := os.Lstat(filepath.Join(inner.top, ".git")); err != nil {
		return nil // the submodule is not checked out
	}
	l, err := inner.listSubmodule(ctx)
	if err != nil {
		return fmt.Errorf("submodule %s: %w", path, err)
	}
	for _, one := range l.untracked {
		if err := inner.hide(v, l, one); err != nil {
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

// restore makes a path in the view what it is in the commit. A folder above it is changed too where only one of the
// working tree and the commit has it.
func (r repository) restore(v *View, l listing, path string) error {
	o := l.objects[path]
	if o != nil {
		if err := r.complete(v, o, path); err != nil {
			return err
		}
	}
	v.change(filepath.Join(r.top, path), o)
	exists := true // below a file or a link that replaced a folder, the working tree has nothing
	for _, dir := range parents(path) {
		at := filepath.Join(r.top, dir)
		if exists {
			info, err := os.Lstat(at)
			exists = err == nil && info.IsDir()
		}
		if exists != (l.objects[dir] != nil) {
			v.change(at, l.objects[dir])
		}
	}
	return nil
}

// parents returns the folders that contain a relative path, the topmost first.
func parents(path string) []string {
	var all []string
	for i, c := range path {
		if c == '/' {
			all = append(all, path[:i])
		}
	}
	return all
}

// complete sets the target of a link, and the permissions of a file to those in the working tree where git sees no
// difference. Git records only whether a file is executable.
func (r repository) complete(v *View, o *object, path string) error {
	if o.IsLink() {
		var to bytes.Buffer
		err := v.blobs.read(o.id, unix.PathMax, &to)
		o.Link = to.String()
		return err
	}
	var now unix.Stat_t
	if o.submodule() || unix.Lstat(filepath.Join(r.top, path), &now) != nil {
		return nil
	}
	mode := uint32(now.Mode) // its type depends on the system
	if mode&tree.ModeType == o.Type() && (mode^o.Mode)&0o100 == 0 {
		o.Mode = mode
	}
	return nil
}

// attributesName is the file that decides how git writes other files to the disk.
const attributesName = ".gitattributes"

// maxAttributes bounds it, in bytes.
const maxAttributes = 1 << 20

// convert marks the files below each changed .gitattributes whose lines about conversion differ. Git would write them
// differently although their blobs may be the same. Which files the lines match is not computed: all of them count.
func (r repository) convert(v *View, l listing) error {
	for _, path := range l.changed {
		if filepath.Base(path) != attributesName {
			continue
		}
		var then bytes.Buffer
		if o := l.objects[path]; o != nil && !o.IsDir() {
			if err := v.blobs.read(o.id, maxAttributes, &then); err != nil {
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
				if err := r.restore(v, l, file); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// conversions returns the lines of a .gitattributes file that can change what git writes to the disk.
func conversions(attributes string) string {
	names := []string{"text", "eol", "crlf", "filter", "ident", "working-tree-encoding", "binary", "[attr]"}
	var all strings.Builder
	for line := range strings.Lines(attributes) {
		if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(line, name) }) {
			all.WriteString(line)
		}
	}
	return all.String()
}
