package executor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WrittenDirs remembers the directories that type=local outputs wrote, by destination, so that a later output may
// replace one by a file. A directory counts as written only while it has exactly the files that it had then.
type WrittenDirs interface {
	// Written returns the directories below dest, by path, with the fingerprints of their content.
	Written(dest string) map[string]string
	SetWritten(dest string, dirs map[string]string) error
}

// maxWritten bounds the directories that are remembered for one destination.
const maxWritten = 50_000

// fingerprintDirs adds the fingerprints of the directory dir and those in it to all, by path below base, and returns
// that of dir. A fingerprint covers names, types, sizes and times of files and targets of links, all the way down.
func fingerprintDirs(root *os.Root, base, dir string, all map[string]string) (string, error) {
	entries, err := fs.ReadDir(root.FS(), path.Join(base, dir))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			below, err := fingerprintDirs(root, base, name, all)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%q %s\n", e.Name(), below)
			continue
		}
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = root.Readlink(path.Join(base, name)); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(h, "%q %v %d %d %q\n", e.Name(), info.Mode().Type(), info.Size(), info.ModTime().UnixNano(), link)
	}
	sum := hex.EncodeToString(h.Sum(nil)[:16])
	if len(all) < maxWritten {
		all[dir] = sum
	}
	return sum, nil
}

// place returns the destination under which its directories are remembered.
func (s *staging) place() string {
	if real, err := filepath.EvalSymlinks(s.dest); err == nil {
		return real
	}
	return s.dest
}

// check refuses new files that would replace a directory that bake did not write. It runs before anything is in place.
func (s *staging) check() error {
	for _, f := range s.files {
		fi, err := s.root.Lstat(f)
		if err != nil || !fi.IsDir() {
			continue
		}
		if own, err := s.isOwn(f); err != nil {
			return err
		} else if !own {
			return fmt.Errorf("%s %w, which a file cannot replace; remove it first", path.Join(s.dest, f), unix.EISDIR)
		}
	}
	return nil
}

// isOwn reports whether a directory is empty, or has just what earlier outputs wrote.
func (s *staging) isOwn(dir string) (bool, error) {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil || len(entries) == 0 {
		return err == nil, err
	}
	if s.written == nil {
		return false, nil
	}
	if s.before == nil {
		s.before = s.written.Written(s.place())
	}
	was, ok := s.before[dir]
	if !ok {
		return false, nil
	}
	now, err := fingerprintDirs(s.root, ".", dir, map[string]string{})
	return now == was, err
}

// replaceDir removes a directory that is the output's own.
func (s *staging) replaceDir(dir string) error {
	if own, err := s.isOwn(dir); err != nil || !own {
		return fmt.Errorf("%s %w, which a file cannot replace; remove it first", path.Join(s.dest, dir), unix.EISDIR)
	}
	return s.root.RemoveAll(dir)
}

// recorded returns the fingerprints of the directories in the hidden folder, which become those of the destination.
func (s *staging) recorded() map[string]string {
	if s.written == nil {
		return nil
	}
	all := map[string]string{}
	if _, err := fingerprintDirs(s.root, s.temp, ".", all); err != nil {
		return nil
	}
	delete(all, ".")
	return all
}

// remember records the directories of this output. An error only makes a later output refuse to replace them.
func (s *staging) remember(dirs map[string]string) {
	if s.written == nil || len(dirs) == 0 {
		return
	}
	all := s.written.Written(s.place())
	if all == nil || len(all)+len(dirs) > maxWritten {
		all = map[string]string{}
	}
	maps.Copy(all, dirs)
	_ = s.written.SetWritten(s.place(), all)
}
