package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HintCache says where a cache can be.
const HintCache = "set BAKE_CACHE_DIR to a directory on ext4, xfs, btrfs or tmpfs; " +
	"in a container, mount a volume there: docker run -v bake-cache:/root/.cache/bake"

// explainUpper explains an error of an overlay mount: the file system of upper may not be able to hold the top layer of
// an overlay. Overlayfs itself cannot, and neither can most network and FUSE file systems.
func explainUpper(upper string, err error) error {
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	kind := fileSystem(upper)
	if kind == "" || slices.Contains([]string{"ext4", "xfs", "btrfs", "tmpfs", "f2fs"}, kind) {
		return err
	}
	const text = "the cache directory is on a file system (%s) that cannot hold what a step changes: %w"
	return &hintError{fmt.Errorf(text, kind, err), HintCache}
}

// fileSystem returns the kind of file system that holds a path, or "".
func fileSystem(p string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, p, 0, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return ""
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	id := strconv.FormatUint(st.Mnt_id, 10)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		mount, rest, _ := strings.Cut(lines.Text(), " - ")
		if number, _, _ := strings.Cut(mount, " "); number == id {
			kind, _, _ := strings.Cut(rest, " ")
			return kind
		}
	}
	return ""
}
