package revision

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/tree"
)

// listing is what git reports of a commit and of the differences between it and the working tree. Paths are relative
// to the top of the checkout.
type listing struct {
	objects map[string]*object // of the commit, with its folders
	changed []string           // tracked files that differ from the commit
	// untracked has the files that git does not track, ignored ones included. A folder of which it tracks nothing
	// is listed once, with a slash at the end.
	untracked []string
	// unseen has the tracked files that git does not compare: a sparse checkout leaves them out, or they are marked
	// as unchanged (git update-index --assume-unchanged).
	unseen []string
}

// list asks git about a commit. The four commands run at once.
func (r repository) list(ctx context.Context, commit string) (l listing, err error) {
	group, ctx := errgroup.WithContext(ctx)
	run := func(into *[]string, args ...string) {
		group.Go(func() (err error) { *into, err = r.paths(ctx, args...); return err })
	}
	var entries, tagged []string
	run(&entries, "ls-tree", "-r", "-t", "-z", "--full-tree", commit)
	// The flags override what the user's configuration of git hides.
	run(&l.changed, "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-relative",
		"--ignore-submodules=untracked", commit, "--")
	run(&l.untracked, "ls-files", "--others", "--directory", "-z")
	run(&tagged, "ls-files", "-v", "-z")
	if err := group.Wait(); err != nil {
		return l, err
	}
	for _, line := range tagged { // a lower case tag: assume-unchanged; S: skip-worktree
		tag, path, ok := strings.Cut(line, " ")
		if ok && (tag == "S" || strings.ToLower(tag) == tag && tag != "?") {
			l.unseen = append(l.unseen, path)
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

// parseEntry reads a record of ls-tree: MODE TYPE ID, a tab, PATH.
func parseEntry(line string) (string, *object, error) {
	facts, path, ok := strings.Cut(line, "\t")
	fields := strings.Fields(facts)
	if !ok || len(fields) != 3 {
		return "", nil, fmt.Errorf("git ls-tree: unknown record %q", line)
	}
	o := &object{id: fields[2]}
	switch fields[0] {
	case "040000":
		o.Mode, o.id = unix.S_IFDIR|0o755, ""
	case "120000":
		o.Mode = unix.S_IFLNK | 0o777
	case "160000":
		o.Mode = unix.S_IFREG // see object.submodule
	case "100755":
		o.Mode = unix.S_IFREG | 0o755
	default:
		o.Mode = unix.S_IFREG | 0o644
	}
	return path, o, nil
}

// listSubmodule asks git about the working tree of a submodule. Of the listing, untracked and the submodules among
// the objects are set.
func (r repository) listSubmodule(ctx context.Context) (l listing, err error) {
	if l.untracked, err = r.paths(ctx, "ls-files", "--others", "--directory", "-z"); err != nil {
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
