package tree

import (
	"os"
	"path/filepath"
)

// LinksTo returns the symbolic links on the way to a path below root, a directory of this machine, and the path that
// they lead to. All of them are absolute paths of the machine. No link leads out of root. A path that does not exist
// is returned as it is written, so that it can be watched.
func LinksTo(root, name string) (links []string, real string) {
	l := linkRecorder{root: root}
	at, _ := Resolve(&l, name, true) // the recorder returns no error, and ends a cycle of links
	return l.links, filepath.Join(root, at)
}

// linkRecorder looks files up on the disk and records the links.
type linkRecorder struct {
	root  string
	links []string
}

// Lookup implements Lookuper. A path that cannot be read as a link counts as a file.
func (l *linkRecorder) Lookup(p string) (Entry, error) {
	at := filepath.Join(l.root, p)
	to, err := os.Readlink(at)
	if err != nil || len(l.links) == maxLinks {
		return Entry{Path: p, Mode: ModeRegular}, nil
	}
	l.links = append(l.links, at)
	return Entry{Path: p, Mode: ModeLink | 0o777, Link: to}, nil
}
