package watch

import (
	"time"

	"golang.org/x/sys/unix"
)

// tick is more than the clock of file times may lag behind the time of day: the kernel sets them once per timer tick.
const tick = 10 * time.Millisecond

// inode identifies a file or directory. It is the zero inode for a path that does not exist.
type inode struct{ dev, number uint64 }

// fileState is what a path named at one time. Two states differ if the file was written, replaced, created or removed
// in between. A directory has only its inode and mode: files in it that are read are in the set themselves.
type fileState struct {
	inode
	mode    uint32
	size    int64
	written unix.Timespec // mtime; it may be any time, also one in the future
	changed unix.Timespec // ctime, which programs cannot set
}

// stateOf returns the state of a path without following a link; the zero state if it does not exist.
func stateOf(path string) fileState {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return fileState{}
	}
	s := fileState{inode: inode{uint64(st.Dev), st.Ino}, mode: uint32(st.Mode)}
	if s.mode&unix.S_IFMT != unix.S_IFDIR {
		s.size, s.written, s.changed = st.Size, st.Mtim, st.Ctim
	}
	return s
}

// inodeOf returns the inode of a directory, following links.
func inodeOf(dir string) inode {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return inode{}
	}
	return inode{uint64(st.Dev), st.Ino}
}

// states returns the states of the single files of a set.
func (s set) states() map[string]fileState {
	all := make(map[string]fileState, len(s.files))
	for f := range s.files {
		all[f] = stateOf(f)
	}
	return all
}

// changedSince returns the single files that are in another state than before, the states when planning began. A file
// that only planning found has no state there: it counts if its ctime is not before that. Times are not compared
// otherwise, so a file from the future does not start one round after another (TestFileFromTheFuture), and a file that
// was deleted, or replaced by an older one, is noticed (TestChangesWhilePlanning).
func (s set) changedSince(before map[string]fileState, began time.Time) []string {
	var all []string
	for f := range s.files {
		now := stateOf(f)
		old, known := before[f]
		if known && now != old || !known && time.Unix(now.changed.Unix()).After(began.Add(-tick)) {
			all = append(all, f)
		}
	}
	return all
}
