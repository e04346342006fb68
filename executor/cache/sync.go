package cache

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

// mark notes, before something becomes visible, that it is not durable yet. name is KIND-HEX.
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

// Sync makes all that this process committed durable, by one sync of the file system. Call it before something outside
// of the cache, or the image index, comes to rely on it. Without anything new it does nothing.
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
		os.Remove(m) // a mark too many costs a check after the next boot, no more
	}
	return nil
}

// checkUnsynced settles what earlier boots left unsynced: a blob is kept if its bytes have its digest, a layer is
// dropped, since nothing tells whether its files are whole. The caller is alone in Open.
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
			if err := s.settle(m.Name()); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) settle(mark string) error {
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

// matchesDigest says whether a file has a digest; a missing one has it, since there is nothing to drop.
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
