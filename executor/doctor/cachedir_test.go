package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
)

// TestCache runs the check on a good cache, before there is one, and on caches that this user cannot use.
func TestCache(t *testing.T) {
	dir := t.TempDir()
	place{Check: "cache", Cache: dir}.in(t).want(t, OK, dir+" (", "")
	attr, _ := ordinary(t)
	place{Check: "cache", Cache: owned(t, attr), Enter: true, attr: attr}.in(t).want(t, OK, "", "")

	missing := filepath.Join(t.TempDir(), "a", "cache")
	place{Check: "cache", Cache: missing}.in(t).want(t, OK, missing+" does not exist yet", "")
	if left, err := os.ReadDir(filepath.Dir(filepath.Dir(missing))); err != nil || len(left) > 0 {
		t.Errorf("the check left %v, %v", left, err)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	place{Check: "cache", Cache: file}.in(t).want(t, Failure, file+": ", "")
	place{Check: "cache", Cache: filepath.Join(file, "cache")}.in(t).
		want(t, Failure, "not a directory; set BAKE_CACHE_DIR", "")
	readonly := strings.ReplaceAll("mount --bind DIR DIR\nmount -o remount,bind,ro DIR", "DIR", dir)
	place{Check: "cache", Cache: dir, Setup: readonly}.in(t).
		want(t, Failure, "read-only file system; set BAKE_CACHE_DIR", "")
}

// TestCacheOfAnother shows caches that belong to another user: as a whole, or in part after a build with sudo.
func TestCacheOfAnother(t *testing.T) {
	attr, _ := ordinary(t)
	dir := owned(t, attr)
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	p := place{Check: "cache", Cache: root, Enter: true, attr: attr}
	p.in(t).want(t, Failure, "it belongs to another user, as after a build with sudo: chown the cache back", "")

	p.Cache = filepath.Join(dir, "own")
	if err := os.Mkdir(p.Cache, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(p.Cache, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
		t.Fatal(err)
	}
	p.in(t).want(t, OK, p.Cache, "")
	place{Check: "cache", Cache: p.Cache}.in(t).want(t, Warning, "belongs to user", "build as that user")
	entry := filepath.Join(p.Cache, "entries", "ab")
	if err := os.Mkdir(entry, 0o700); err != nil {
		t.Fatal(err)
	}
	p.in(t).want(t, Failure, entry+": permission denied; it belongs to another user", "")
}

// TestDamagedCache shows that damage which the check repairs is reported, and gone afterwards.
func TestDamagedCache(t *testing.T) {
	dir := t.TempDir()
	s, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "oci", "index.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	place{Check: "cache", Cache: dir}.in(t).want(t, Warning, "index.json", "bake cache check")
	place{Check: "cache", Cache: dir}.in(t).want(t, OK, dir, "")
}

// TestNetworkFileSystem shows the refusal of a cache whose locks do not work. A test cannot mount NFS.
func TestNetworkFileSystem(t *testing.T) {
	dir := &cacheDir{dir: t.TempDir(), open: func(dir string) (*cache.Store, error) {
		return nil, &cache.Error{Op: "open the cache", Path: dir, Err: cache.CheckFileSystem(unix.NFS_SUPER_MAGIC)}
	}}
	found(t, dir.check()).want(t, Failure, "cannot be on a network file system; set BAKE_CACHE_DIR", "")
}

// TestDisk runs the check on small file systems: full, almost full, and out of inodes.
func TestDisk(t *testing.T) {
	place{Check: "disk"}.in(t).want(t, OK, "inodes free", "")
	dir := t.TempDir()
	on := func(options, fill string) Finding {
		t.Helper()
		setup := "mount -t tmpfs -o " + options + " none " + dir + "\n" + fill
		return place{Check: "disk", Cache: filepath.Join(dir, "cache"), Setup: setup}.in(t)
	}
	on("size=4G", "").want(t, OK, "4.29GB of 4.29GB free", "")
	on("size=64m", "").want(t, Warning, "67.1MB of 67.1MB free", "BAKE_CACHE_DIR")
	on("size=64m", "head -c 60000000 /dev/zero >"+dir+"/fill").
		want(t, Failure, " of 67.1MB free", "bake cache prune --all")
	on("size=4G,nr_inodes=50", "").want(t, Failure, "of 50 inodes free", "bake cache prune --all")
}
