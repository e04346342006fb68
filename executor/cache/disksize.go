package cache

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// diskSize returns the bytes of disk blocks that a tree occupies. Holes of sparse files count as nothing. A file with
// several hard links counts in proportion to the links inside the tree, so the sizes of trees that share files add up
// to what they occupy together. Files that vanish during the walk are ignored. whole reports whether every directory
// could be read.
func diskSize(path string) (size int64, whole bool, err error) {
	m := measurer{links: map[uint64]int64{}, whole: true}
	dir, name := filepath.Split(path)
	fd, err := unix.Open(filepath.Clean(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer unix.Close(fd)
	err = m.add(fd, name)
	return m.size, m.whole, err
}

// measurer adds up one tree.
type measurer struct {
	size  int64
	whole bool
	// links counts the links found so far to each inode that has several.
	links map[uint64]int64
}

func (m *measurer) add(dir int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	blocks, n := st.Blocks*512, int64(st.Nlink)
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		m.size += blocks
		return m.addAll(dir, name)
	case n > 1:
		// The shares of all n links add up to exactly blocks, despite integer division.
		k := m.links[st.Ino]
		m.links[st.Ino] = k + 1
		m.size += blocks*(k+1)/n - blocks*k/n
	default:
		m.size += blocks
	}
	return nil
}

func (m *measurer) addAll(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		m.whole = false
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := m.add(fd, n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sizes holds measured sizes in bytes, by path below the cache. Layers and blobs never change, and the key of a cache
// mount contains the time of its last use, so a size stays valid. The file saves a collection the walk through all
// layers; nothing else depends on it.
type sizes map[string]int64

// maxSizes bounds the file, in bytes.
const maxSizes = 64 << 20

func (s *Store) readSizes() sizes {
	known := sizes{}
	raw, err := readBounded(s.path(fileSizes), maxSizes)
	if err != nil || json.Unmarshal(raw, &known) != nil {
		return sizes{}
	}
	maps.DeleteFunc(known, func(_ string, size int64) bool { return size < 0 })
	return known
}

func (s *Store) writeSizes(known sizes) error {
	raw, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return s.writeFile(s.path(fileSizes), raw)
}

// onDisk estimates the disk space of n bytes of content.
func onDisk(n int64) int64 {
	const block = 4096
	return (n + block - 1) / block * block
}
