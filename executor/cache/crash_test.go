package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// workVariable makes the test binary do one round of work on a cache instead of running tests: "DIR\nNUMBER".
const workVariable = "BAKE_TEST_CACHE_WORK"

func TestMain(m *testing.M) {
	if dir, n, ok := strings.Cut(os.Getenv(workVariable), "\n"); ok {
		if err := work(context.Background(), dir, n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// content returns the content of a layer or blob of a round.
func content(what, n string) string { return strings.Repeat(what+" of round "+n+"\n", 300) }

// work does once everything that changes a cache.
func work(ctx context.Context, dir, n string) error {
	if os.Getenv(workVariable) != "" {
		if err := reportChanges(); err != nil {
			return err
		}
	}
	s, err := openUnpacked(dir)
	if err != nil {
		return err
	}
	for _, do := range []func(context.Context, *Store, string) error{workEntry, workImage, workMount, workNotes,
		workRemoval} {
		if err := do(ctx, s, n); err != nil {
			return err
		}
	}
	return s.Close()
}

// openUnpacked opens a cache. If there is a directory next to it, the store unpacks layers in a new one there.
func openUnpacked(dir string) (*Store, error) {
	s, err := Open(dir)
	if err != nil || !isDir(dir+unpackedSuffix) {
		return s, err
	}
	place, err := os.MkdirTemp(dir+unpackedSuffix, "")
	if err != nil {
		return nil, err
	}
	return s, s.UnpackIn(place, "use a larger place")
}

// unpackedSuffix ends the name of a directory next to a cache, see openUnpacked.
const unpackedSuffix = ".unpacked"

func workEntry(ctx context.Context, s *Store, n string) error {
	key := digest.FromString("key " + n)
	unlock, err := s.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := s.NewLayer()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.FS, "file"), []byte(content("layer", n)), 0o644); err != nil {
		return err
	}
	blob, err := workBlob(s, content("packed", n))
	if err != nil {
		return err
	}
	layer := digest.FromString("layer " + n)
	meta := LayerMeta{Size: int64(len(content("layer", n))), Files: 1}
	meta.Packed = []Packed{{Encoding: "some", DiffID: layer, Digest: blob, Size: int64(len(content("packed", n)))}}
	if err := d.Commit(layer, meta); err != nil {
		return err
	}
	e := &Entry{ID: key, Key: key, Name: "step", Outputs: []Output{{Parts: []Part{{Layer: layer}}}}}
	return errors.Join(s.Put(e), s.Alias(digest.FromString("alias "+n), key),
		s.PutCandidate(digest.FromString("group"), e))
}

func workBlob(s *Store, text string) (digest.Digest, error) {
	w, err := s.NewBlob()
	if err != nil {
		return "", err
	}
	if _, err := w.Write([]byte(text)); err != nil {
		return "", err
	}
	d, _, err := w.Commit(digest.FromString(text), int64(len(text)))
	return d, err
}

// workImage moves a name to a new image, and removes another name.
func workImage(_ context.Context, s *Store, n string) error {
	layer, err := workBlob(s, content("image layer", n))
	if err != nil {
		return err
	}
	manifest, err := workBlob(s, fmt.Sprintf(`{"layers":[{"digest":%q}]}`, layer))
	if err != nil {
		return err
	}
	for _, name := range []string{"docker.io/library/moves:latest", "docker.io/library/goes:latest"} {
		if err := s.PutImages([]Image{{Name: name, Digest: manifest, Kind: KindBuilt,
			Recorded: time.Now()}}); err != nil {
			return err
		}
	}
	_, err = s.RemoveImage("docker.io/library/goes:latest")
	return err
}

func workMount(ctx context.Context, s *Store, n string) error {
	m, err := s.CacheMount(ctx, "mount "+n, "locked", nil)
	if err != nil {
		return err
	}
	for _, name := range []string{"seed1", "seed2"} {
		if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(content("seed", n)), 0o644); err != nil {
			return err
		}
	}
	if err := m.Filled(); err != nil {
		return err
	}
	m.Release()
	return nil
}

func workNotes(_ context.Context, s *Store, n string) error {
	return errors.Join(
		s.AddDurations(map[string]time.Duration{"step " + n: time.Second, "every": time.Second}),
		s.PutPins(filepath.Join(s.dir, "bake.lock"), []digest.Digest{digest.FromString(n)}),
		s.RecordUses(s.dir, []Use{{Target: "t", Layers: []digest.Digest{digest.FromString("layer " + n)}}}),
		s.PutBuild(Stamp(time.Now())+"-"+n, []byte(content("build", n))),
		s.Sync(),
	)
}

// workRemoval adds a damaged blob, repairs the cache, and prunes it to about one round.
func workRemoval(ctx context.Context, s *Store, n string) error {
	damaged := digest.FromString("damaged " + n)
	if err := os.WriteFile(s.BlobPath(damaged), []byte("something else"), 0o600); err != nil {
		return err
	}
	if _, err := s.Check(ctx, CheckOptions{Repair: true}); err != nil {
		return err
	}
	old := time.Now().Add(-time.Hour)
	for _, path := range []string{s.layerPath(digest.FromString("layer " + n)),
		s.path(dirMounts, mountName("mount "+n))} {
		if err := os.Chtimes(path, old, old); err != nil {
			return err
		}
	}
	if _, err := s.Prune(ctx, PruneOptions{OlderThan: time.Minute}); err != nil {
		return err
	}
	_, err := s.Collect(ctx, Limits{Size: 64 << 10})
	return err
}

// TestKilledAtEachPoint kills a process that writes to a cache before one of its system calls that change a file, at a
// later call in each round. With BAKE_TEST_EVERY_POINT=1 it tries each call, else every
// ninth with a random start. The next process must find nothing damaged, nothing locked, and only complete content.
// Layers are directories of the cache, or archives.
func TestKilledAtEachPoint(t *testing.T) {
	t.Run("directories", func(t *testing.T) {
		dir := t.TempDir()
		killAtEachPoint(t, func() string { return dir })
	})
	t.Run("archives", func(t *testing.T) {
		// A check unpacks every archive. On the same cache each round would have more calls than the one before.
		killAtEachPoint(t, func() string {
			dir := filepath.Join(t.TempDir(), "cache")
			if err := os.Mkdir(dir+unpackedSuffix, 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		})
	})
}

func killAtEachPoint(t *testing.T, cache func() string) {
	dir := ""
	killedAt := map[string]int{}
	first, step := 1+rand.IntN(9), 9
	if os.Getenv("BAKE_TEST_EVERY_POINT") != "" {
		first, step = 1, 1
	}
	t.Logf("the first point is %d, the step %d", first, step)
	for n := first; ; n += step {
		round := strconv.Itoa(n)
		dir = cache()
		call, killed := killBefore(t, dir, round, n)
		if !killed {
			t.Logf("the work changes files fewer than %d times; killed before %v", n, killedAt)
			if n < 100 {
				t.Error("too few: the tracer misses calls")
			}
			break
		}
		killedAt[call]++
		checkAfterCrash(t, dir, round, fmt.Sprintf("killed before call %d, %s", n, call))
		if t.Failed() {
			return
		}
	}
	if err := work(t.Context(), dir, "last"); err != nil {
		t.Fatal(err)
	}
}

// checkAfterCrash opens the cache as the next process does, and checks it.
func checkAfterCrash(t *testing.T, dir, n, when string) {
	t.Helper()
	s, err := openUnpacked(dir)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer s.Close()
	wrong := func(format string, args ...any) { t.Errorf(when+": "+format, args...) }
	if names, err := os.ReadDir(filepath.Join(dir, dirTmp)); err != nil || len(names) != 2 {
		wrong("%d names in tmp, want this process's two: %v", len(names), err)
	}
	damages, err := s.Check(t.Context(), CheckOptions{})
	if err != nil {
		wrong("check: %v", err)
	}
	for _, d := range damages {
		// The blob that workRemoval damages may still exist.
		if filepath.Base(d.Path) != digest.FromString("damaged "+n).Encoded() {
			wrong("%s: %s", d.Path, d.What)
		}
	}
	if _, err := s.Check(t.Context(), CheckOptions{Repair: true}); err != nil {
		wrong("repair: %v", err)
	}
	if _, err := s.Usage(); err != nil {
		wrong("usage: %v", err)
	}
	image, ok, err := s.Image("docker.io/library/moves:latest")
	if err != nil || ok && s.missing(image.Digest, true) != "" {
		wrong("the image that moves lacks a blob, %v", err)
	}
	checkUnlocked(t, s, n, when)
}

// checkUnlocked checks that the locks of a killed process are free, and what they protect.
func checkUnlocked(t *testing.T, s *Store, n, when string) {
	t.Helper()
	wrong := func(format string, args ...any) { t.Errorf(when+": "+format, args...) }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	unlock, err := s.Lock(ctx, digest.FromString("key "+n))
	if err != nil {
		t.Fatalf("%s: the key is locked: %v", when, err)
	}
	unlock()
	for _, key := range []string{"key " + n, "alias " + n} {
		e, err := s.Lookup(digest.FromString(key))
		if err != nil {
			wrong("%v", err)
		}
		if e == nil {
			continue
		}
		layer, ok := s.LayerDir(e.Outputs[0].Parts[0].Layer)
		raw, err := os.ReadFile(filepath.Join(layer, "file"))
		if !ok || err != nil || string(raw) != content("layer", n) {
			wrong("the layer of %s holds %d bytes, %v", key, len(raw), err)
		}
	}
	m, err := s.CacheMount(ctx, "mount "+n, "locked", nil)
	if err != nil {
		t.Fatalf("%s: the cache mount is locked: %v", when, err)
	}
	for _, name := range []string{"seed1", "seed2"} {
		raw, err := os.ReadFile(filepath.Join(m.Dir, name))
		if !m.New && (err != nil || string(raw) != content("seed", n)) {
			wrong("the cache mount counts as seeded and %s holds %d bytes, %v", name, len(raw), err)
		}
	}
	m.Release()
}

// killBefore starts a round of work and kills it before its nth call that changes a file below dir. killed is false if
// the work ended before.
func killBefore(t *testing.T, dir, round string, n int) (call string, killed bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), workVariable+"="+dir+"\n"+round, "GOMAXPROCS=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	tr := &tracer{dir: dir, left: n}
	err = tr.run(cmd)
	switch {
	case errors.Is(err, errNoTrace):
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	case err != nil:
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return tr.call, tr.killed
}
