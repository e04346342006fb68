package cache_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
)

// TestErrorSaysWhatToDo shows that an error of the system says what failed, where, why, and what to do.
func TestErrorSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	for errno, want := range map[unix.Errno]string{
		unix.ENOSPC: "bake cache prune", unix.EDQUOT: "bake cache prune",
		unix.EROFS: "BAKE_CACHE_DIR to a writable", unix.EACCES: "BAKE_CACHE_DIR to a writable",
		unix.EPERM: "BAKE_CACHE_DIR to a writable", unix.ENOTDIR: "BAKE_CACHE_DIR to a directory",
		unix.ELOOP: "BAKE_CACHE_DIR to a directory", unix.ENAMETOOLONG: "BAKE_CACHE_DIR to a directory",
		unix.EMFILE: "ulimit -n", unix.ENFILE: "ulimit -n", unix.ENOMEM: "-j",
		unix.EIO: "another disk", unix.EUCLEAN: "another disk", unix.ESTALE: "another disk",
		unix.ENXIO: "another disk", unix.ENODEV: "another disk",
		unix.ENOLCK: "a local disk", unix.ENOSYS: "a local disk", unix.EOPNOTSUPP: "a local disk",
		unix.EXDEV: "a local disk", unix.EFBIG: "a local disk",
		unix.ENOENT: "bake cache check --repair", unix.ENOTEMPTY: "bake cache check --repair",
		unix.EEXIST: "bake cache check --repair", unix.EBUSY: "bake cache check --repair",
		unix.EISDIR: "bake cache check --repair",
	} {
		text := (&cache.Error{Op: "write", Path: dir, Err: fmt.Errorf("rename x: %w", errno)}).Error()
		what, todo, _ := strings.Cut(text, "; ")
		if !strings.HasPrefix(what, "write "+dir+": rename x: "+errno.Error()) || !strings.Contains(todo, want) {
			t.Errorf("%s: want what to do with %q", text, want)
		}
	}
}
