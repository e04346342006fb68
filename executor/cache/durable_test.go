package cache

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// afterPowerLoss returns a cache with marks of an earlier boot: of a blob that takes a while to read, which is torn
// unless whole is true, and of a layer.
func afterPowerLoss(t *testing.T, whole bool) (dir string, blob, layer digest.Digest) {
	t.Helper()
	dir = t.TempDir()
	s := open(t, dir)
	const size = 512 << 20
	file, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	blob, layer = digest.NewDigest(digest.SHA256, h), digest.FromString("layer")
	left := int64(size)
	if !whole {
		left--
	}
	earlier := filepath.Join(dir, dirUnsynced, "earlier")
	if err := errors.Join(
		file.Truncate(left), os.Rename(file.Name(), s.BlobPath(blob)),
		os.MkdirAll(filepath.Join(dir, dirLayers, layer.Encoded(), "fs"), 0o755), os.MkdirAll(earlier, 0o700),
		os.WriteFile(filepath.Join(earlier, "blob-"+blob.Encoded()), nil, 0o600), // as earlier versions named it
		os.WriteFile(filepath.Join(earlier, "layer-"+layer.Encoded()+".0123-4"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return dir, blob, layer
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestOpenDuringTheCheck: after a power loss, several processes open the cache while the first still checks what was
// not synced. All succeed, and none drops a layer that another has committed since.
func TestOpenDuringTheCheck(t *testing.T) {
	for _, whole := range []bool{true, false} {
		dir, blob, layer := afterPowerLoss(t, whole)
		var wg sync.WaitGroup
		for n := range 3 {
			wg.Go(func() {
				time.Sleep(time.Duration(n) * 20 * time.Millisecond)
				s, err := Open(dir)
				if err != nil {
					t.Errorf("process %d: %v", n, err)
					return
				}
				defer s.Close()
				d, err := s.NewLayer()
				if err == nil {
					err = d.Commit(layer, LayerMeta{})
				}
				if err != nil {
					t.Errorf("process %d: %v", n, err)
				}
				for range 50 {
					if _, ok := s.LayerDir(layer); !ok {
						t.Errorf("another process dropped the layer of process %d", n)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
				if s.HasBlob(blob, -1) != whole {
					t.Errorf("process %d sees a whole blob: %v", n, !whole)
				}
			})
		}
		wg.Wait()
	}
}

// marks returns the marks of the current boot.
func marks(t *testing.T, s *Store) []string {
	t.Helper()
	list, err := filepath.Glob(s.path(dirUnsynced, s.boot, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestSyncOfOthers: a name may refer to what another process has written and not synced, so Sync makes that durable
// too. It leaves the mark of a process that has not renamed its item yet.
func TestSyncOfOthers(t *testing.T) {
	dir := t.TempDir()
	one, other := open(t, dir), open(t, dir)
	blob := putBlob(t, one, "blob")
	putLayer(t, one, digest.FromString("layer"), "content")
	if again := putBlob(t, other, "blob"); again != blob || len(marks(t, other)) != 2 {
		t.Fatalf("marks %q", marks(t, other))
	}
	image := Image{Name: "docker.io/library/x:1", Digest: blob, Kind: KindBuilt}
	if err := other.PutImages([]Image{image}); err != nil {
		t.Fatal(err)
	}
	if left := marks(t, other); len(left) > 0 {
		t.Errorf("a name refers to a blob that is not durable: %q", left)
	}
	if err := one.mark("blob", digest.FromString("not renamed yet")); err != nil {
		t.Fatal(err)
	}
	putBlob(t, other, "more")
	if err := other.Sync(); err != nil {
		t.Fatal(err)
	}
	if left := marks(t, other); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}

// TestSyncFails: on a disk that cannot store what was written, Sync and PutImages fail and move no name. The marks
// stay, so what was lost is checked after the next boot.
func TestSyncFails(t *testing.T) {
	if !inMountNamespace(t, "mkfs.ext4") {
		return
	}
	// The file of a loop device is sparse, and its own disk too small.
	small, mounted := t.TempDir(), t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", small)
	defer run(t, "umount", small)
	run(t, "sh", "-c", "truncate -s 200M "+small+"/disk && mkfs.ext4 -q -O ^has_journal "+small+"/disk")
	run(t, "mount", "-o", "loop", small+"/disk", mounted)
	defer run(t, "umount", mounted)
	s, err := Open(mounted)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, noise(t), 40<<20); err != nil {
		t.Fatal(err)
	}
	d, _, err := w.Commit("", -1)
	if err != nil {
		t.Fatal(err)
	}
	err = s.PutImages([]Image{{Name: "docker.io/library/x:1", Digest: d, Kind: KindBuilt}})
	if e := new(Error); !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "sync "+mounted+": ") {
		t.Errorf("%v; want an error of the sync", err)
	}
	if len(marks(t, s)) != 1 {
		t.Errorf("marks after a sync that failed: %q", marks(t, s))
	}
	if images, err := s.Images(); err != nil || len(images) > 0 {
		t.Errorf("images %v, %v", images, err)
	}
}

// noise returns random bytes, which no file system stores in less space.
func noise(t *testing.T) io.Reader {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// inMountNamespace runs the calling test again in a mount namespace of its own, in which it may mount disks, and
// reports whether this is that run. It skips where that is not possible or a program is missing.
func inMountNamespace(t *testing.T, programs ...string) bool {
	t.Helper()
	const variable = "BAKE_TEST_MOUNT_NAMESPACE"
	if os.Getenv(variable) == t.Name() {
		return true
	}
	skip := t.Skipf
	if os.Getenv("CI") == "true" && os.Geteuid() == 0 {
		skip = t.Fatalf
	}
	for _, p := range append(programs, "unshare", "mount") {
		if _, err := exec.LookPath(p); err != nil {
			skip("needs %s", p)
		}
	}
	const probe = "mount -t tmpfs tmpfs /mnt && losetup -f"
	unshare := []string{"-m", "--propagation", "private"}
	if out, err := exec.Command("unshare", append(unshare, "sh", "-c", probe)...).CombinedOutput(); err != nil {
		skip("cannot mount disks: %v: %s", err, out)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", append(unshare, exe, "-test.run=^"+t.Name()+"$", "-test.v")...)
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}
