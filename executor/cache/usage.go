package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Usage says what a cache takes on disk, in bytes as the file system counts them.
type Usage struct {
	Layers  int64 // directory forms
	Blobs   int64 // packed layers, manifests, configs
	Mounts  int64 // cache mounts
	Entries int64
	Logs    int64 // of steps, and the records of builds
	Other   int64
	Total   int64
	// Roots is how much of Blobs tagged images alone need, which no prune frees.
	Roots int64
}

// Usage adds up what the cache takes.
func (s *Store) Usage() (Usage, error) {
	var u Usage
	parts := []struct {
		into *int64
		dirs []string
	}{
		{&u.Layers, []string{dirLayers, dirPacked}},
		{&u.Blobs, []string{dirOCI}},
		{&u.Mounts, []string{dirMounts}},
		{&u.Entries, []string{dirEntries, dirCandidates}},
		{&u.Logs, []string{dirLogs, dirBuilds}},
		{&u.Other, []string{dirStat, dirLocks, dirTmp, dirUnsynced}},
	}
	for _, part := range parts {
		for _, dir := range part.dirs {
			n, err := diskSize(s.path(dir))
			if err != nil {
				return u, wrap("measure", s.path(dir), err)
			}
			*part.into += n
		}
		u.Total += *part.into
	}
	roots, err := s.rootBlobs()
	if err != nil {
		return u, err
	}
	for d := range roots {
		n, err := diskSize(s.BlobPath(d))
		if err != nil {
			return u, wrap("measure", s.BlobPath(d), err)
		}
		u.Roots += n
	}
	return u, nil
}

// diskSize is what a tree takes on disk, a file with several names counted once. What vanishes meanwhile, and what this
// user may not read, counts nothing.
func diskSize(root string) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
