package tree

import (
	"context"
	"path"
	"runtime"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// SelectionDigest is the content digest of what a selection names: names, types, modes, owners, link targets,
// devices, attributes that a copy keeps, which files are one by hard links, and contents. Times are not in it. It
// holds some files of the selection at a time, however many there are.
//
// It is made of the totals of the directories, which a build context has once for all selections.
func SelectionDigest(ctx context.Context, f FS, s Selection) (digest.Digest, error) {
	h := &hasher{batch: batch{fs: f}, all: newRecorder()}
	err := scan(ctx, f, s, viewer{match: func(m Match) error {
		err := h.finish(ctx)
		h.all.text("match", m.Name)
		h.matches++
		return err
	}, file: func(file Selected) error {
		h.files = append(h.files, file)
		if len(h.files) < maxBatch {
			return nil
		}
		return h.flush(ctx)
	}, whole: func(l *Local, dir string) error {
		if err := h.flush(ctx); err != nil {
			return err
		}
		h.open = h.open[:0] // of the directory itself, which is empty so far
		return l.totals(ctx, dir, h.add)
	}})
	if err == nil {
		err = h.finish(ctx)
	}
	if err != nil {
		return "", err
	}
	h.names.write(h.all)
	return digestOfSum(h.all.sum()), nil
}

// hasher makes the totals of directories of files that it is shown parents before children.
type hasher struct {
	batch
	all     *recorder
	matches int
	open    []openDir // the directory of the last file, below those above it
	names   linkNames
}

// openDir is a directory of which more files may come.
type openDir struct {
	rel   string // path below the match's root
	files *recorder
	links []linked
}

// flush records the files that wait, with their contents, which are read side by side.
func (h *hasher) flush(ctx context.Context) error {
	contents, err := h.contents(ctx)
	if err != nil {
		return err
	}
	for i, file := range h.files {
		if err := h.record(file, contents[i]); err != nil {
			return err
		}
	}
	h.files = h.files[:0]
	return nil
}

func (h *hasher) record(file Selected, content digest.Digest) error {
	e := &file.Entry
	r := record{entry: *e, implied: file.Implied}
	var err error
	if e.IsRegular() || e.IsDir() {
		if r.attrs, err = h.fs.Xattrs(e.Path); err != nil {
			return err
		}
	}
	if e.IsRegular() {
		sum, err := sumOfDigest(content)
		if err != nil {
			return err
		}
		r.content = sum[:]
	}
	if file.Rel == "" {
		h.all.file(&r)
		h.names.add(strconv.Itoa(h.matches), appendLinked(nil, &r))
	} else {
		r.name = path.Base(file.Rel)
		in := h.dir(parentOf(file.Rel))
		in.files.file(&r)
		in.links = appendLinked(in.links, &r)
	}
	if e.IsDir() {
		h.open = append(h.open, openDir{rel: file.Rel, files: newRecorder()})
	}
	return nil
}

// dir is an open directory, once those are closed that are not above it.
func (h *hasher) dir(rel string) *openDir {
	for len(h.open) > 1 && h.open[len(h.open)-1].rel != rel {
		h.close()
	}
	return &h.open[len(h.open)-1]
}

func (h *hasher) close() {
	last := h.open[len(h.open)-1]
	h.open = h.open[:len(h.open)-1]
	h.add(last.rel, &total{last.files.sum(), last.links})
}

// add takes the total of a directory, those below it first.
func (h *hasher) add(rel string, t *total) {
	h.all.text("dir", rel, string(t.sum[:]))
	h.names.add(path.Join(strconv.Itoa(h.matches), rel), t.links)
}

// finish ends a match.
func (h *hasher) finish(ctx context.Context) error {
	if err := h.flush(ctx); err != nil {
		return err
	}
	for len(h.open) > 0 {
		h.close()
	}
	return nil
}

// parentOf is the directory of a relative path, "" for the top.
func parentOf(rel string) string {
	if dir := path.Dir(rel); dir != "." {
		return dir
	}
	return ""
}

// maxBatch is how many files are read side by side before they are recorded in order.
const maxBatch = 512

// batch is files whose contents are read side by side.
type batch struct {
	fs    FS
	files []Selected
}

// contents computes the digests of the regular files among those that wait.
func (b *batch) contents(ctx context.Context) ([]digest.Digest, error) {
	found := make([]digest.Digest, len(b.files))
	err := spread(ctx, len(found), func(ctx context.Context, i int) (err error) {
		if e := b.files[i].Entry; e.IsRegular() {
			found[i], err = b.fs.Digest(ctx, e.Path)
		}
		return err
	})
	return found, err
}

// spread calls do for each of n, some side by side.
func spread(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	workers := min(runtime.GOMAXPROCS(0), 8, n)
	for w := range workers {
		group.Go(func() (err error) {
			for i := w; i < n && err == nil; i += workers {
				err = do(ctx, i)
			}
			return err
		})
	}
	return group.Wait()
}
