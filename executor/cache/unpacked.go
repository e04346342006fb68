package cache

// Layers of a cache whose file system cannot hold them.
//
// The problem: a step runs on an overlay whose upper directory is a new layer. Overlayfs, FUSE and others cannot be
// that directory, and many of them can store neither whiteouts nor the owners of files.
//
// The idea: UnpackIn names a directory on another file system. New layers are created there. Commit writes an archive
// of the layer into the cache (layers/ID/fs.tar), and LayerDir unpacks that archive again when a process needs the
// layer. So all other code sees the directories that it always sees, and layers have the same bytes.
//
// Invariants:
//   - The archive is what counts: a layer exists if it has one, and is unpacked at most once by a process.
//   - Only this process uses the directory. Its layers are never evicted while the process runs, and go with it.
//   - A layer that a process without such a directory wrote (layers/ID/fs) does not count here: on this file system it
//     may have lost attributes. The other way around, an archive counts everywhere; where layers can be, LayerDir puts
//     its files into their usual place.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
)

// archiveFile is the name of the archive of a layer, next to meta.json.
const archiveFile = "fs.tar"

// unpacked is the directory of UnpackIn.
type unpacked struct{ dir, remedy string }

// unpacking holds what this process unpacks or failed to unpack.
type unpacking struct {
	flights singleflight.Group
	failed  sync.Map // errors by ids of layers
}

// UnpackIn makes the store keep layers as archives, and their files in a directory that only this process uses. remedy
// says what to do if that is full. Call it before the first use.
func (s *Store) UnpackIn(dir, remedy string) error {
	for _, sub := range []string{dirTmp, dirLayers, dirMountpoint} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return wrap("create a directory in", dir, err)
		}
	}
	s.unpacked = &unpacked{dir, remedy}
	return nil
}

// draftName returns an unused path for a new layer. A process may open the cache twice.
func (s *Store) draftName() string {
	if s.unpacked == nil {
		return s.tempName()
	}
	return filepath.Join(s.unpacked.dir, dirTmp, s.Session()+"-"+filepath.Base(s.tempName()))
}

// unpackedPath returns where the files of a layer are that is kept as an archive.
func (s *Store) unpackedPath(id digest.Digest) string {
	if s.unpacked == nil {
		return s.layerPath(id, "fs")
	}
	return filepath.Join(s.unpacked.dir, dirLayers, id.Encoded())
}

// archive writes the archive of a draft and returns the directory that becomes the layer in the cache, and the digest.
func (d *Draft) archive() (item, sum string, err error) {
	item = d.store.tempName()
	if err := os.Mkdir(item, 0o700); err != nil {
		return "", "", err
	}
	sum, err = writeArchive(d.FS, filepath.Join(item, archiveFile))
	return item, sum, err
}

// keepUnpacked keeps the files of a committed draft for this process.
func (d *Draft) keepUnpacked(id digest.Digest) error {
	err := os.Rename(d.FS, d.store.unpackedPath(id))
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
		err = nil // another goroutine has unpacked the archive already
	}
	return errors.Join(err, d.Discard())
}

// files returns the directory of an existing layer. It unpacks the layer if necessary.
func (s *Store) files(id digest.Digest) (string, bool) {
	path := s.unpackedPath(id)
	if isDir(path) {
		return path, true
	}
	_, err, _ := s.unpacking.flights.Do(id.Encoded(), func() (any, error) {
		if isDir(path) {
			return nil, nil
		}
		return nil, s.unpack(id, path)
	})
	if err != nil {
		s.unpacking.failed.Store(id, err)
	}
	return path, err == nil
}

// unpack unpacks the archive of a layer. A damaged one is removed with the layer.
func (s *Store) unpack(id digest.Digest, path string) error {
	if s.unpacked == nil && !HoldsLayers(s.dir) {
		return errors.New("the file system of the cache cannot hold the layer")
	}
	tmp := s.draftName()
	err := os.Mkdir(tmp, 0o700)
	if err == nil {
		err = s.unpackTo(id, tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	switch {
	case isCorrupt(err):
		s.note(fmt.Sprintf("layer %s is damaged; it is removed from the cache", id))
		err = errors.Join(err, s.dropLayer(id))
	case err == nil && s.unpacked == nil:
		return os.Remove(s.layerPath(id, archiveFile))
	case isDir(path):
		err = nil // another process was faster
	}
	return errors.Join(err, removeTree(tmp))
}

// unpackTo unpacks the archive of a layer into an empty directory.
func (s *Store) unpackTo(id digest.Digest, dir string) error {
	record, ok := s.layerRecord(id)
	if !ok {
		return errDamaged
	}
	return readArchive(s.layerPath(id, archiveFile), dir, record.Archive)
}

// MissingLayer returns the error for a layer that exists no more although it was found before.
func (s *Store) MissingLayer(id digest.Digest) error {
	if err, ok := s.unpacking.failed.Load(id); ok {
		return fmt.Errorf("unpack layer %s: %w", id, s.blame("unpack a layer in", err.(error)))
	}
	return fmt.Errorf("layer %s was deleted by another program while in use; build again", id)
}

// checkedDir returns the files of a layer for Check, and a function that removes what was unpacked for it.
func (s *Store) checkedDir(id digest.Digest) (dir string, done func() error, err error) {
	if isDir(s.layerPath(id, "fs")) {
		return s.layerPath(id, "fs"), func() error { return nil }, nil
	}
	if _, err := os.Lstat(s.layerPath(id, archiveFile)); err != nil {
		return "", nil, err
	}
	dir = s.draftName()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, err
	}
	done = func() error { return removeTree(dir) }
	if err := s.unpackTo(id, dir); err != nil {
		return "", nil, errors.Join(err, done())
	}
	return dir, done, nil
}

// isDir reports whether a path is a directory, and not a link to one.
func isDir(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// isRegular reports whether a path is a regular file.
func isRegular(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// blame returns the error for a write that failed, with the directory whose disk is full.
func (s *Store) blame(op string, err error) error {
	if s.unpacked != nil && DiskFull(err) && !spaceOf(s.dir).lacksBytes() {
		return &Error{Op: op, Path: s.unpacked.dir, Err: err, Remedy: s.unpacked.remedy}
	}
	return wrap(op, s.dir, err)
}

// WriteError returns the error for a write to the cache or to a layer that failed.
func (s *Store) WriteError(err error) error { return s.blame("write to", err) }

// FullDisk says that the disk of the cache or of the unpacked layers has hardly any space or inodes left, and what to
// do. It returns "" if there is enough.
func (s *Store) FullDisk() string {
	if u := s.unpacked; u != nil {
		if d := spaceOf(u.dir); d.lacksBytes() {
			return "the place of unpacked layers is full" + d.bytes() + "; " + u.remedy
		}
	}
	d := spaceOf(s.dir)
	free := ""
	switch {
	case d.lacksBytes():
		free = d.bytes()
	case d.lacksInodes():
		free = d.inodes()
	default:
		return ""
	}
	return "the disk of the cache is full" + free + "; to free what no tagged image needs, run bake cache prune --all"
}
