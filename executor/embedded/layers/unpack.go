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

// Below is the tree of the layers below. Unpack reads the attributes of directories that a tar implies but does not
// list, and the files of lower layers that a tar hard-links. *layerfs.View implements it.
type Below interface {
	Lookup(path string) (tree.Entry, error)
	Xattrs(path string) (map[string][]byte, error)
	Open(path string) (*os.File, error)
}

// UnpackOptions configures Unpack.
type UnpackOptions struct {
	Dir       string // an empty directory to which nothing else writes
	Below     Below  // nil for the lowest layer
	UserXattr bool   // for a user namespace: user.overlay.* attributes and no device nodes
	Limits    Limits
}

// UnpackResult describes a layer that was unpacked or indexed.
type UnpackResult struct {
	DiffID  digest.Digest // sha256 of the uncompressed stream; the caller must compare it with the expected one
	Records []Record
	Size    int64 // bytes of regular files
	Files   int64 // paths
	// LinksBelow is set if the layer hard-links files of the layers below. Unpack copies these files up; BuildIndex
	// cannot, so its records lack their attributes.
	LinksBelow bool
}

// Record describes one path of a layer.
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
	Whiteout bool // the path is removed; all fields except Path are zero
	Opaque   bool // a directory that hides the lower one
	Implied  bool // a directory that the tar does not list: its attributes are those of the layers below
}

// Unpack unpacks the layer blob r (plain, gzip or zstd) into opt.Dir, in overlayfs's encoding. The blob may be
// hostile: no entry reaches outside of opt.Dir, and opt.Limits bounds its size. If several entries have the same path,
// the last one wins. After an error, opt.Dir holds a part of the layer, and the caller must delete it. Unpack does not
// use r after it has returned.
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

// BuildIndex reads a layer blob like Unpack but writes no files. It returns the same records.
func BuildIndex(ctx context.Context, r io.Reader, limits Limits) (UnpackResult, error) {
	res, err := apply(ctx, r, discard{}, limits, func(*node) error { return nil })
	if err != nil {
		return UnpackResult{}, fmt.Errorf("index layer: %w", err)
	}
	return res, nil
}

// DiffID reads a layer blob like Unpack but keeps nothing. It returns the digest of the uncompressed stream.
func DiffID(ctx context.Context, r io.Reader, limits Limits) (digest.Digest, error) {
	s, err := openStream(ctx, r)
	if err != nil {
		return "", fmt.Errorf("read layer: %w", err)
	}
	defer s.Close()
	a := newApplier(discard{}, limits)
	if err := a.measure(ctx, s); err != nil {
		return "", fmt.Errorf("read layer: %w", err)
	}
	id, err := s.finish(a.limits.Trailing)
	if err != nil {
		return "", fmt.Errorf("read layer: %w", err)
	}
	return id, nil
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

// records lists all paths: siblings in order, parents before their children.
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

// discard is the target of BuildIndex, which writes nothing.
type discard struct{}

func (discard) mkdir(*node) error             { return nil }
func (discard) mkfile(*node, io.Reader) error { return nil }
func (discard) mklink(*node, *node) error     { return nil }
func (discard) mkspecial(*node) error         { return nil }
func (discard) remove(*node) error            { return nil }
func (discard) supports(*inode) bool          { return true }
func (discard) copyUp(*node) error            { return nil }
