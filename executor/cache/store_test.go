package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache/key"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// putLayer commits a layer with one file.
func putLayer(t testing.TB, s *Store, id digest.Digest, content string) {
	t.Helper()
	d, err := s.NewLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.FS, "file"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(id, LayerMeta{Size: int64(len(content)), Files: 1}); err != nil {
		t.Fatal(err)
	}
}

func testEntry(name, layer string) *Entry {
	return &Entry{
		ID: digest.FromString(name), Key: digest.FromString(name), Step: digest.FromString("step"), Name: name,
		Inputs:  []key.Part{{Name: "op", Digest: "x"}},
		Outputs: []Output{{Parts: []Part{{Input: 0, Index: 1}, {Layer: digest.FromString(layer)}}}},
		Created: time.Unix(1, 0).UTC(),
	}
}

func TestEntryRoundTrip(t *testing.T) {
	s := open(t, t.TempDir())
	putLayer(t, s, digest.FromString("layer"), "content")
	want := testEntry("key", "layer")
	if err := s.Put(want); err != nil {
		t.Fatal(err)
	}
	if err := s.Alias(digest.FromString("other"), want.Key); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"key", "other"} {
		got, err := s.Lookup(digest.FromString(key))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if got, err := s.Lookup(digest.FromString("unknown")); got != nil || err != nil {
		t.Errorf("unknown key: %v, %v", got, err)
	}
}

func TestDamageIsAMiss(t *testing.T) {
	damages := map[string]func(path string, raw []byte) error{
		"truncated": func(p string, raw []byte) error { return os.WriteFile(p, raw[:len(raw)/2], 0o600) },
		"flipped": func(p string, raw []byte) error {
			raw[len(raw)-5] ^= 1
			return os.WriteFile(p, raw, 0o600)
		},
		"empty":   func(p string, _ []byte) error { return os.WriteFile(p, nil, 0o600) },
		"missing": func(p string, _ []byte) error { return os.Remove(p) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			putLayer(t, s, digest.FromString("layer"), "content")
			e := testEntry("key", "layer")
			if err := s.Put(e); err != nil {
				t.Fatal(err)
			}
			path := s.own().entryPath(e.Key)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(path, raw); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Lookup(e.Key); got != nil || err != nil {
				t.Errorf("got %v, %v, want a miss", got, err)
			}
		})
	}
	t.Run("layer gone", func(t *testing.T) {
		s := open(t, t.TempDir())
		if err := s.Put(testEntry("key", "never committed")); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Lookup(digest.FromString("key")); got != nil || err != nil {
			t.Errorf("got %v, %v, want a miss", got, err)
		}
	})
}

// TestCheckUnreadable checks that a blob that cannot be read, as on a bad sector, is reported and does not end the
// check.
func TestCheckUnreadable(t *testing.T) {
	s := open(t, t.TempDir())
	bad, wrong, good := putBlob(t, s, "unreadable"), putBlob(t, s, "damaged"), putBlob(t, s, "good")
	if err := errors.Join(os.Remove(s.BlobPath(bad)), os.Mkdir(s.BlobPath(bad), 0o755),
		os.WriteFile(s.BlobPath(wrong), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, repair := range []bool{false, true} {
		found, err := s.Check(t.Context(), CheckOptions{Repair: repair})
		if err != nil || len(found) != 2 {
			t.Errorf("repair %t: found %v, %v", repair, found, err)
		}
	}
	if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) > 0 {
		t.Errorf("after the repair: found %v, %v", found, err)
	}
	if _, err := os.Stat(s.BlobPath(good)); err != nil {
		t.Error(err)
	}
}

func TestLockExcludesAndCancels(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	key := digest.FromString("key")
	unlock, err := a.Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := b.Lock(ctx, key); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second lock: %v", err)
	}
	unlock()
	again, err := b.Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestLockOfManyHolders(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	var inside, counter atomic.Int64
	for range 8 {
		s := open(t, dir)
		wg.Go(func() {
			for range 50 {
				unlock, err := s.Lock(t.Context(), digest.FromString("one"))
				if err != nil {
					t.Error(err)
					return
				}
				if !inside.CompareAndSwap(0, 1) {
					t.Error("two holders at once")
				}
				counter.Add(1)
				inside.Store(0)
				unlock()
			}
		})
	}
	wg.Wait()
	if counter.Load() != 400 {
		t.Errorf("counted %d, want 400", counter.Load())
	}
}

func TestBlob(t *testing.T) {
	s := open(t, t.TempDir())
	want := digest.FromString("hello")
	for range 2 {
		w, err := s.NewBlob()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, "hello")
		got, size, err := w.Commit(want, 5)
		if got != want || size != 5 || err != nil {
			t.Fatalf("commit: %s, %d, %v", got, size, err)
		}
	}
	if !s.HasBlob(want, 5) || s.HasBlob(want, 4) || s.HasBlob(digest.FromString("other"), -1) {
		t.Error("HasBlob is wrong")
	}
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "other bytes")
	if _, _, err := w.Commit(want, -1); !errors.Is(err, ErrMismatch) {
		t.Errorf("commit of other bytes: %v", err)
	}
}

func TestImages(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		s := open(t, dir)
		wg.Go(func() {
			image := Image{Name: fmt.Sprintf("docker.io/library/x%d:latest", i), Digest: digest.FromString("m"),
				MediaType: "m",
				Size:      1, Kind: KindBuilt, Target: "x", Recorded: time.Unix(5, 7).UTC()}
			if err := s.PutImages([]Image{image}); err != nil {
				t.Error(err)
			}
			got, ok, err := s.Image(image.Name)
			if diff := cmp.Diff(image, got); diff != "" || !ok || err != nil {
				t.Errorf("%v %v (-want +got):\n%s", ok, err, diff)
			}
		})
	}
	wg.Wait()
	s := open(t, dir)
	if images, err := s.Images(); len(images) != 8 || err != nil {
		t.Errorf("%d images, %v", len(images), err)
	}
	if removed, err := s.RemoveImage("docker.io/library/x3:latest"); !removed || err != nil {
		t.Errorf("remove: %v, %v", removed, err)
	}
	if _, ok, _ := s.Image("docker.io/library/x3:latest"); ok {
		t.Error("the image still exists")
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-time.Hour)
	s := open(t, dir)
	for _, name := range []string{"a", "b"} {
		putLayer(t, s, digest.FromString(name), name)
		if err := s.Put(testEntry("key of "+name, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(s.layerPath(digest.FromString(name)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := s.Lookup(digest.FromString("key of a")); e == nil || err != nil {
		t.Fatalf("lookup: %v, %v", e, err)
	}
	pruned, err := s.Prune(t.Context(), PruneOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	if pruned.Items != 1 {
		t.Errorf("pruned %d items, want the unused one", pruned.Items)
	}
	if e, _ := s.Lookup(digest.FromString("key of a")); e == nil {
		t.Error("an item in use was pruned")
	}
	if e, _ := s.Lookup(digest.FromString("key of b")); e != nil {
		t.Error("an entry without its layer was found")
	}
}

func TestOpenReapsTheDead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	left := filepath.Join(dir, dirTmp, "gone")
	if err := os.MkdirAll(filepath.Join(left, "draft", "fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of a dead process still exists: %v", err)
	}
	if _, err := os.Lstat(s.tmp); err != nil {
		t.Errorf("the directory of a running process was removed: %v", err)
	}
}

// TestOpenWhileOthersClose checks that Open tolerates leases that end while it looks at them.
func TestOpenWhileOthersClose(t *testing.T) {
	dir := t.TempDir()
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			for range 200 {
				s, err := Open(dir)
				if err != nil {
					return err
				}
				if err := s.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestUnsyncedOfAnEarlierBoot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	putLayer(t, s, digest.FromString("layer"), "content")
	w, err := s.NewBlob()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "bytes")
	blob, _, err := w.Commit("", -1)
	if err != nil {
		t.Fatal(err)
	}
	// Simulate a power loss: the marks are of another boot, and the content of the blob is lost.
	if err := os.Rename(filepath.Join(dir, dirUnsynced, s.boot),
		filepath.Join(dir, dirUnsynced, "earlier")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.BlobPath(blob), []byte{0, 0, 0, 0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	after := open(t, dir)
	if _, ok := after.LayerDir(digest.FromString("layer")); ok {
		t.Error("an unsynced layer of an earlier boot is visible")
	}
	if after.HasBlob(blob, -1) {
		t.Error("a blob that lost its content is visible")
	}
}

func FuzzDecodeEntry(f *testing.F) {
	raw, err := encodeEntry(stored{Entry: testEntry("key", "layer")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(entryMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := decodeEntry(raw)
		if err == nil && v.Entry == nil && v.Alias == "" {
			t.Error("decoded nothing without an error")
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	s := open(b, b.TempDir())
	putLayer(b, s, digest.FromString("layer"), "content")
	e := testEntry("key", "layer")
	if err := s.Put(e); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := s.Lookup(e.Key); got == nil || err != nil {
			b.Fatal(got, err)
		}
	}
}

// TestPlan checks that Plan returns what was stored, or nil.
func TestPlan(t *testing.T) {
	s := open(t, t.TempDir())
	name := digest.FromString("project")
	if got := s.Plan(name); got != nil {
		t.Errorf("got %q from an empty store", got)
	}
	if err := s.PutPlan(name, []byte("a plan")); err != nil {
		t.Fatal(err)
	}
	if got := string(s.Plan(name)); got != "a plan" {
		t.Errorf("got %q", got)
	}
	raw, err := os.ReadFile(s.planPath(name))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(s.planPath(name), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.Plan(name); got != nil {
		t.Errorf("got %q from a damaged file", got)
	}
}

// TestDeniedNamesOwner checks that an error about a file that cannot be written says if it belongs to another user, as
// after a build with sudo.
func TestDeniedNamesOwner(t *testing.T) {
	mine, other := t.TempDir(), "/usr"
	if os.Geteuid() == 0 {
		other = t.TempDir()
		if err := os.Chown(other, 12345, -1); err != nil {
			t.Fatal(err)
		}
	}
	const whose = "it belongs to another user"
	for path, want := range map[string]bool{mine: false, other: true, filepath.Join(other, "missing/file"): true} {
		text := (&Error{Op: "write", Path: path, Err: unix.EACCES}).Error()
		if strings.Contains(text, whose) != want ||
			!strings.Contains(text, "set BAKE_CACHE_DIR to a writable directory") {
			t.Errorf("%s: %s", path, text)
		}
	}
}
