package tree

import (
	"context"
	"path"
	"runtime"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// SelectionDigest returns the content digest of a selection. It covers names, types, modes, owners, link targets,
// devices, attributes that a copy keeps, contents, and which names are hard links of one file. Times are not in it. At
// most maxBatch files are in memory.
//
// Names are those below the root of a match, and the name of the root where a copy may use it: where the files are from
// is not in the digest. TestDigestOfAnotherPlace compares places.
//
// The digest combines one total per directory. Local computes the total of a whole directory once and reuses it for
// every selection.
func SelectionDigest(ctx context.Context, f FS, s Selection) (digest.Digest, error) {
	h := &hasher{batch: batch{fs: f}, all: newRecorder()}
	err := scan(ctx, f, s, visitor{match: func(m Match) error {
		err := h.finish(ctx)
		h.all.text("match", m.landing(s))
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
		h.open = h.open[:0] // the directory itself, which has no files yet: totals adds them
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

// hasher computes the totals of directories from files in walk order, parents first.
type hasher struct {
	batch
	all     *recorder
	matches int
	open    []openDir // the directories above the last file, outermost first
	names   linkNames
}

// openDir is a directory whose total is not complete.
type openDir struct {
	rel   string // path below the match's root
	files *recorder
	links []linked
}

// flush records the files of the batch, after reading their contents in parallel.
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

// dir closes the directories that do not contain rel and returns the innermost open one.
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

// add records the total of a directory. Subdirectories come first.
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

// parentOf returns the directory of a relative path, "" for the top.
func parentOf(rel string) string {
	if dir := path.Dir(rel); dir != "." {
		return dir
	}
	return ""
}

// maxBatch is the number of files that are read in parallel before they are recorded in order.
const maxBatch = 512

// batch holds files whose contents are read in parallel.
type batch struct {
	fs    FS
	files []Selected
}

// contents returns the digests of the batch's regular files, by index.
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

// spread calls do for each i below n, on several goroutines.
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
