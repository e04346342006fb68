package layers

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/tree"
)

// Below is what an unpack asks of the layers below: the attributes of directories that a layer implies but does not
// list, and files that it hard-links. A *layerfs.View is one.
type Below interface {
	Lookup(path string) (tree.Entry, error)
	Xattrs(path string) (map[string][]byte, error)
	Open(path string) (*os.File, error)
}

// UnpackOptions says where a layer goes.
type UnpackOptions struct {
	Dir       string // an empty directory that nobody else writes to
	Below     Below  // nil for the lowest layer
	UserXattr bool   // user.overlay.* marks and no device nodes: a user namespace
	Limits    Limits
}

// UnpackResult is what Unpack found.
type UnpackResult struct {
	DiffID  digest.Digest // sha256 of the uncompressed stream; the caller compares it with the wanted one
	Records []Record
	Size    int64 // bytes of regular files
	Files   int64 // paths
	// LinksBelow says that the layer hard-links files of the layers below. Unpack copies these up; the records of
	// BuildIndex then lack the attributes of such files.
	LinksBelow bool
}

// Record is one path of a layer, as its tar tells.
type Record struct {
	Path     string // absolute, clean, raw bytes
	Mode     uint32 // st_mode with type bits
	UID, GID uint32
	Size     int64
	Mtime    time.Time
	Link     string // target of a symbolic link
	Rdev     uint64
	Xattrs   map[string][]byte
	Inode    uint64 // equal for hard links of one file
	Nlink    uint32
	Whiteout bool // the path is gone; all else is zero
	Opaque   bool // a directory that hides the one below
	Implied  bool // a directory the tar does not list: attributes are those of the layers below
}

// Unpack reads one layer tar, plain, gzip or zstd, into opt.Dir. The tar is not trusted: no entry reaches outside of
// opt.Dir, and what it holds is bounded by opt.Limits. Of entries with one path the last wins. After an error opt.Dir
// holds a part of the layer and is to be deleted. r is not used any more once Unpack has returned.
func Unpack(ctx context.Context, r io.Reader, opt UnpackOptions) (UnpackResult, error) {
	d, err := newDisk(ctx, opt.Dir, opt.Below, opt.UserXattr)
	if err != nil {
		return UnpackResult{}, fmt.Errorf("unpack layer: %w", err)
	}
	res, err := apply(ctx, r, d, opt.Limits, d.finish)
	if cerr := d.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return UnpackResult{}, fmt.Errorf("unpack layer: %w", err)
	}
	return res, nil
}

// BuildIndex reads a layer tar like Unpack and keeps only what it lists.
func BuildIndex(ctx context.Context, r io.Reader, limits Limits) (UnpackResult, error) {
	res, err := apply(ctx, r, nowhere{}, limits, func(*node) error { return nil })
	if err != nil {
		return UnpackResult{}, fmt.Errorf("index layer: %w", err)
	}
	return res, nil
}

func apply(ctx context.Context, r io.Reader, to target, limits Limits, finish func(*node) error) (UnpackResult, error) {
	s, err := openStream(ctx, r)
	if err != nil {
		return UnpackResult{}, err
	}
	defer s.Close()
	a := newApplier(to, limits)
	if err := a.run(ctx, s); err != nil {
		return UnpackResult{}, err
	}
	diffID, err := s.finish(a.limits.Trailing)
	if err != nil {
		return UnpackResult{}, err
	}
	records := a.records()
	if err := finish(a.root); err != nil {
		return UnpackResult{}, err
	}
	return UnpackResult{
		DiffID: diffID, Records: records, Size: a.content, Files: int64(len(records)), LinksBelow: a.below,
	}, nil
}

// records lists all paths: siblings sorted, parents before their children.
func (a *applier) records() []Record {
	out := make([]Record, 0, a.inodes)
	var walk func(n *node, p string)
	walk = func(n *node, p string) {
		out = append(out, n.record(p))
		names := make([]string, 0, len(n.children))
		for name := range n.children {
			names = append(names, name)
		}
		slices.Sort(names)
		if p == "/" {
			p = ""
		}
		for _, name := range names {
			walk(n.children[name], p+"/"+name)
		}
	}
	walk(a.root, "/")
	return out
}

func (n *node) record(p string) Record {
	if n.whiteout {
		return Record{Path: p, Whiteout: true}
	}
	i := n.ino
	return Record{
		Path: p, Mode: i.mode, UID: i.uid, GID: i.gid, Size: i.size, Mtime: i.mtime, Link: i.link, Rdev: i.rdev,
		Xattrs: i.xattrs, Inode: i.number, Nlink: i.nlink, Opaque: n.opaque, Implied: n.implied,
	}
}

// nowhere is the target of BuildIndex.
type nowhere struct{}

func (nowhere) mkdir(*node) error             { return nil }
func (nowhere) mkfile(*node, io.Reader) error { return nil }
func (nowhere) mklink(*node, *node) error     { return nil }
func (nowhere) mkspecial(*node) error         { return nil }
func (nowhere) remove(*node) error            { return nil }
func (nowhere) wants(*inode) bool             { return true }
func (nowhere) lower(*node) error             { return nil }
