package cache

// Durability: a power loss may leave a renamed file with missing content, since neither content nor directory is synced
// when something is committed. Syncing each file would cost most of the time of a build with many small layers.
//
// Instead, a commit first creates an empty mark unsynced/BOOT/KIND-HEX, then renames. Sync calls syncfs once and
// removes the marks of this process. A mark of an earlier boot means that the content may be incomplete, so Open checks
// it.
//
// Invariants:
//   - A blob or layer that is visible and has no mark is durable.
//   - A name moves (PutImages, an output, a push) only after Sync. Otherwise the name could survive a power loss and
// its
//     content could not.
//   - A mark is created before the rename. In the other order, a crash between the two would leave unsynced content
//     that nothing checks.
//
// Entries need no mark: their checksum detects damage. TestUnsyncedOfAnEarlierBoot shows the check after a power loss,
// TestKilledAtEachPoint the order of calls.

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mark records that a blob or layer is not durable yet. Call it before the rename that makes it visible. kind is
// "blob" or "layer".
func (s *Store) mark(kind string, d digest.Digest) error {
	path := s.path(dirUnsynced, s.boot, kind+"-"+d.Encoded())
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.unsynced = append(s.unsynced, path)
	s.mu.Unlock()
	return f.Close()
}

// Sync makes everything that this process committed durable, with one syncfs. Call it before anything outside the
// cache, or the image index, refers to new content. It does nothing if nothing was committed since the last Sync.
func (s *Store) Sync() error {
	s.mu.Lock()
	marks := s.unsynced
	s.unsynced = nil
	s.mu.Unlock()
	if len(marks) == 0 {
		return nil
	}
	dir, err := os.Open(s.dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
	}
	if err != nil {
		return wrap("sync", s.dir, err)
	}
	for _, m := range marks {
		os.Remove(m) // an extra mark only costs a check after the next boot
	}
	return nil
}

// checkUnsynced checks what earlier boots left unsynced. It keeps a blob whose bytes match its digest, and drops a
// layer, since a layer's files have no digest to compare with.
func (s *Store) checkUnsynced() error {
	boots, err := os.ReadDir(s.path(dirUnsynced))
	if err != nil {
		return err
	}
	for _, boot := range boots {
		if boot.Name() == s.boot {
			continue
		}
		dir := s.path(dirUnsynced, boot.Name())
		marks, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, m := range marks {
			if err := s.checkMark(m.Name()); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// checkMark checks the blob or drops the layer that a mark is about.
func (s *Store) checkMark(mark string) error {
	kind, hex, _ := strings.Cut(mark, "-")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if d.Validate() != nil {
		return nil
	}
	if kind == "layer" {
		return s.dropLayer(d)
	}
	whole, err := matchesDigest(s.BlobPath(d), d)
	if err != nil || whole {
		return err
	}
	return os.Remove(s.BlobPath(d))
}

// matchesDigest reports whether the content of a file has the digest d. It reports true for a missing file: nothing to
// remove.
func matchesDigest(path string, d digest.Digest) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	return digest.NewDigest(digest.SHA256, h) == d, nil
}
