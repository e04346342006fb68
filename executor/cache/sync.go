package cache

// Durability: a power loss may leave a renamed file with missing content, since neither content nor directory is synced
// when something is committed. Syncing each file would cost most of the time of a build with many small layers.
//
// Instead, a commit first creates an empty mark unsynced/BOOT/KIND-HEX.SESSION-N, then renames. Sync calls syncfs once
// and removes the marks of all processes, since a name may refer to what another process has written. A mark of an
// earlier boot means that the content may be incomplete, so Open checks it.
//
// Invariants:
//   - A blob or layer that is visible and has no mark is durable.
//   - A name moves (PutImages, an output, a push) only after Sync. Otherwise the name could survive a power loss and
//     its content could not.
//   - A mark is created after the content is complete and before the rename. In the other order, a crash between the
//     two would leave unsynced content that nothing checks.
//   - Sync removes a mark only if the item was visible before the syncfs. Otherwise the mark of a process that renames
//     meanwhile would go, and its rename would not be durable. For the same reason each commit has its own mark.
//   - A failed syncfs removes no mark, so the next Sync tries again.
//   - Marks of earlier boots are checked under locks/open, before this process has a result from Open. Otherwise
//     another process could commit an item again while this one still checks the mark of the lost one, and drops it.
//
// Entries need no mark: their checksum detects damage. TestUnsyncedOfAnEarlierBoot shows the check after a power loss,
// TestOpenDuringTheCheck the lock, TestSyncOfOthers and TestSyncFails the marks, TestKilledAtEachPoint the order of
// calls.

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

// mark records that a blob or layer is not durable yet. Call it when its content is complete, before the rename that
// makes it visible. kind is "blob" or "layer".
func (s *Store) mark(kind string, d digest.Digest) error {
	name := kind + "-" + d.Encoded() + "." + s.Session() + "-" + filepath.Base(s.tempName())
	path := s.path(dirUnsynced, s.boot, name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Sync makes everything durable that this process or another has committed to the cache, with one syncfs. Call it
// before anything outside the cache, or the image index, refers to content. It does nothing if everything is durable.
func (s *Store) Sync() error {
	dir := s.path(dirUnsynced, s.boot)
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return wrap("sync", dir, err)
	}
	var marks []string
	for _, n := range names {
		if path, _, ok := s.markedPath(n.Name()); ok {
			if _, err := os.Lstat(path); err == nil {
				marks = append(marks, filepath.Join(dir, n.Name()))
			}
		}
	}
	if len(marks) == 0 {
		return nil
	}
	if err := s.syncFS(); err != nil {
		return wrap("sync", s.dir, err)
	}
	for _, m := range marks {
		os.Remove(m) // an extra mark only costs a check after the next boot
	}
	return nil
}

// syncFS makes the file system of the cache durable.
func (s *Store) syncFS() error {
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// markedPath returns the path and the digest of the item that a mark is about.
func (s *Store) markedPath(mark string) (path string, d digest.Digest, ok bool) {
	name, _, _ := strings.Cut(mark, ".")
	kind, hex, _ := strings.Cut(name, "-")
	if d = digest.NewDigestFromEncoded(digest.SHA256, hex); d.Validate() != nil {
		return "", "", false
	}
	switch kind {
	case "layer":
		return s.layerPath(d), d, true
	case "blob":
		return s.BlobPath(d), d, true
	}
	return "", "", false
}

// checkUnsynced checks what earlier boots left unsynced. It keeps a blob whose bytes match its digest, and drops a
// layer, since a layer's files have no digest to compare with. It returns the trees that are left to remove. The caller
// holds the lock "open".
func (s *Store) checkUnsynced() (dropped []string, err error) {
	boots, err := os.ReadDir(s.path(dirUnsynced))
	if err != nil {
		return nil, err
	}
	for _, boot := range boots {
		dir := s.path(dirUnsynced, boot.Name())
		if !boot.IsDir() {
			if err := os.Remove(dir); err != nil {
				return dropped, err
			}
		}
		if !boot.IsDir() || boot.Name() == s.boot {
			continue
		}
		marks, err := os.ReadDir(dir)
		if err != nil {
			return dropped, err
		}
		before := len(dropped)
		for _, m := range marks {
			if dropped, err = s.checkMark(m.Name(), dropped); err != nil {
				return dropped, err
			}
		}
		// The removal must not become durable before what was dropped is gone.
		if len(dropped) > before {
			if err := s.syncFS(); err != nil {
				return dropped, err
			}
		}
		if err := removeTree(dir); err != nil {
			return dropped, err
		}
	}
	return dropped, nil
}

// checkMark checks the blob or drops the layer that a mark is about. It appends what it dropped to dropped.
func (s *Store) checkMark(mark string, dropped []string) ([]string, error) {
	path, d, ok := s.markedPath(mark)
	if !ok {
		return dropped, nil
	}
	if path == s.BlobPath(d) {
		whole, err := matchesDigest(path, d)
		if whole || err != nil && !isCorrupt(err) {
			return dropped, err
		}
	}
	aside := s.tempName()
	err := os.Rename(path, aside)
	if errors.Is(err, os.ErrNotExist) {
		return dropped, nil
	}
	return append(dropped, aside), err
}

// matchesDigest reports whether the content of a file has the digest d. It reports true for a missing file: nothing to
// remove. What is not a regular file is damaged.
func matchesDigest(path string, d digest.Digest) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false, errors.Join(err, errDamaged)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	return digest.NewDigest(digest.SHA256, h) == d, nil
}
