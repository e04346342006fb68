package cache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// damages are the ways in which a file of a cache is damaged. A name that a process holds open keeps its old file.
var damages = map[string]func(path string) error{
	"empty": func(path string) error { return replaceFile(path, nil) },
	"truncated": func(path string) error {
		return changeFile(path, func(raw []byte) []byte { return raw[:len(raw)/2] })
	},
	"zeros": func(path string) error {
		return changeFile(path, func(raw []byte) []byte { return make([]byte, len(raw)) })
	},
	"garbage": func(path string) error { return replaceFile(path, []byte("\x7fELF no file\nof this program\x00")) },
	"other JSON": func(path string) error {
		return replaceFile(path, []byte(`{"Total":-5,"manifests":"none","Alias":7,"a":[1]}`))
	},
	"JSON of no type": func(path string) error { return replaceFile(path, []byte(`{}`)) },
	"huge": func(path string) error {
		return errors.Join(replaceFile(path, []byte("{")), os.Truncate(path, 300<<20))
	},
	"directory": func(path string) error {
		return errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "in", "it"), 0o755))
	},
	"pipe": func(path string) error { return errors.Join(os.RemoveAll(path), unix.Mkfifo(path, 0o600)) },
	"loop": func(path string) error { return errors.Join(os.RemoveAll(path), os.Symlink(filepath.Base(path), path)) },
	"gone": os.RemoveAll,
}

func replaceFile(path string, raw []byte) error {
	return errors.Join(os.RemoveAll(path), os.WriteFile(path, raw, 0o600))
}

func changeFile(path string, change func([]byte) []byte) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return replaceFile(path, change(raw))
}

// kinds are all files of a cache directory, as patterns. The row of each in the README says what its damage does.
var kinds = []string{
	"oci/index.json", "oci/oci-layout", "oci/blobs/sha256/*", "images", "entries/*/*", "candidates/*/*/*",
	"layers/*/meta.json", "packed/*/*/*", "mounts/*/lock", "mounts/*/seed", "mounts/*/seeded", "logs/*", "builds/*",
	"mounts/*/current", "times", "past/*", "lists/*", "outputs/*", "statindex/plan-*", "targets/*", "pins/*", "sizes",
	"ledger", "id", "unsynced/*/*", "tmp/*.lock", "locks/*", "claims/*/origin", "claims/*/entries/*/*",
	"claims/*/candidates/*/*/*",
}

// folders are the directories of a cache. A file in the place of one is damage.
var folders = []string{
	dirBlobs, dirOCI, dirEntries, dirEntries + "/*", dirCandidates, dirCandidates + "/*", dirCandidates + "/*/*",
	dirLayers, dirLayers + "/*", dirLayers + "/*/fs", dirPacked, dirPacked + "/*", dirPacked + "/*/*", dirMounts,
	dirMounts + "/*", dirMounts + "/*/fs", dirLogs, dirBuilds, dirPast, dirLists, dirOutputs, dirStat, dirTargets,
	dirPins, dirLocks, dirTmp, dirUnsynced, dirUnsynced + "/*", dirMountpoint, dirClaimed, dirClaimed + "/*",
	dirClaimed + "/*/" + dirEntries, dirClaimed + "/*/" + dirEntries + "/*", dirClaimed + "/*/" + dirCandidates,
	dirClaimed + "/*/" + dirCandidates + "/*", dirClaimed + "/*/" + dirCandidates + "/*/*",
}

// fillCache fills a cache with one item of each kind, and returns after all its processes have ended; one was killed.
func fillCache(t *testing.T, dir string) {
	t.Helper()
	if err := fillAll(t.Context(), dir, "1"); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(dir, dirTmp, "0123456789abcdef")
	if err := errors.Join(os.Mkdir(killed, 0o700), os.WriteFile(killed+".lock", nil, 0o600),
		os.WriteFile(filepath.Join(dir, dirLocks, digest.FromString("killed").Encoded()), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// fillAll does all work of a process except the removal of what it wrote.
func fillAll(ctx context.Context, dir, n string) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	for _, do := range []func(context.Context, *Store, string) error{workImage, workMount, workNotes, workHistory,
		workEntry, workClaimed} {
		if err := do(ctx, s, n); err != nil {
			return errors.Join(err, s.Close())
		}
	}
	return s.Close()
}

// workClaimed stores what a remote cache says about the entry of workEntry.
func workClaimed(_ context.Context, s *Store, n string) error {
	set, d := s.ClaimSet("cache "+n), digest.FromString("claimed "+n)
	layer := digest.FromString("layer " + n)
	e := &Entry{ID: d, Key: d, Name: "claimed", Outputs: []Output{{Parts: []Part{{Layer: layer}}}}}
	return errors.Join(set.Add(e, nil, digest.FromString("claimed alias "+n)),
		set.AddCandidate(digest.FromString("claimed group"), e))
}

// workHistory writes what workNotes does not.
func workHistory(ctx context.Context, s *Store, n string) error {
	log, err := s.NewLog(digest.FromString(n))
	if err != nil {
		return err
	}
	var fresh FreshMounts
	m, mountErr := s.CacheMount(ctx, "fresh "+n, "shared", &fresh)
	if mountErr == nil {
		m.Release()
	}
	fresh.Close()
	_, idErr := s.ID()
	_, collectErr := s.Collect(ctx, Limits{Size: 1 << 40, Reserve: 1})
	return errors.Join(log.Close(), idErr, collectErr, mountErr, s.SetWritten("/out", map[string]string{"d": n}),
		s.PutPlan(digest.FromString(n), []byte("plan")),
		s.AddPastRuns(digest.FromString(n), []PastRun{{Instruction: "RUN"}}),
		s.PutFileList(digest.FromString(n), func() ([]byte, error) { return []byte("list"), nil }))
}

// readAll reads everything in a cache. Nothing that it returns may be wrong.
func readAll(t *testing.T, s *Store) {
	t.Helper()
	if dirs := s.Written("/out"); len(dirs) > 0 && dirs["d"] != "1" {
		t.Errorf("written directories: %v", dirs)
	}
	for _, name := range []string{"key 1", "alias 1"} {
		e, err := s.Lookup(digest.FromString(name))
		if err != nil {
			t.Error(err)
		}
		if e == nil {
			continue
		}
		if dir, ok := s.LayerDir(e.Outputs[0].Parts[0].Layer); ok {
			if raw, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(raw) != content("layer", "1") {
				t.Errorf("the layer of %s holds %d bytes, %v", name, len(raw), err)
			}
		}
	}
	if _, err := s.Candidates(digest.FromString("group")); err != nil {
		t.Error(err)
	}
	readClaimed(t, s)
	if plan := s.Plan(digest.FromString("1")); plan != nil && string(plan) != "plan" {
		t.Errorf("plan %q", plan)
	}
	s.LayerMeta(digest.FromString("layer 1"))
	if d := s.Durations().Of("every"); d < 0 || d > maxDuration {
		t.Errorf("duration %v", d)
	}
	for _, r := range s.PastRuns(digest.FromString("1")) {
		r.Load()
	}
	if id, err := s.ID(); err != nil || !validID(id) {
		t.Errorf("id %q, %v", id, err)
	}
	if _, err := s.Images(); err != nil {
		t.Error(err)
	}
	if _, err := s.Usage(); err != nil {
		t.Error(err)
	}
	names, err := s.Builds()
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		_, _ = s.Build(name) // it may be unreadable: the caller says which build
	}
}

func readClaimed(t *testing.T, s *Store) {
	t.Helper()
	set := s.ClaimSet("cache 1")
	for _, name := range []string{"claimed 1", "claimed alias 1"} {
		e, _, err := set.Lookup(digest.FromString(name))
		if err != nil || e != nil && e.Name != "claimed" {
			t.Errorf("the claim %s: %v, %v", name, e, err)
		}
	}
	if _, err := set.Candidates(digest.FromString("claimed group")); err != nil {
		t.Error(err)
	}
	if got := s.ClaimOrigins(); len(got) > 1 || len(got) == 1 && got[0] != "cache 1" {
		t.Errorf("the claims are of %q", got)
	}
}

// TestDamagedFiles damages the files of each kind, one kind at a time, in every way. Reading is then a miss, all work
// can be done again, and after a repair nothing is damaged.
func TestDamagedFiles(t *testing.T) {
	for _, kind := range kinds {
		for how, damage := range damages {
			t.Run(kind+" "+how, func(t *testing.T) { withDamage(t, kind, damage) })
		}
	}
	for _, folder := range folders {
		t.Run(folder+" a file", func(t *testing.T) {
			withDamage(t, folder, func(path string) error { return replaceFile(path, []byte("no directory")) })
		})
	}
}

func withDamage(t *testing.T, pattern string, damage func(path string) error) {
	dir := t.TempDir()
	fillCache(t, dir)
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no %s in a full cache, %v", pattern, err)
	}
	for _, path := range paths {
		if err := damage(path); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		useDamaged(t, dir)
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for ever")
	}
}

func useDamaged(t *testing.T, dir string) {
	s, err := Open(dir)
	if err != nil {
		t.Errorf("open: %v", err)
		return
	}
	readAll(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := fillAll(t.Context(), dir, "1"); err != nil {
		t.Errorf("work: %v", err)
		return
	}
	s = open(t, dir)
	if _, err := s.Check(t.Context(), CheckOptions{Repair: true}); err != nil {
		t.Errorf("repair: %v", err)
	}
	if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) > 0 {
		t.Errorf("after the repair: %v, %v", found, err)
	}
	if err := fillAll(t.Context(), dir, "1"); err != nil {
		t.Errorf("work after the repair: %v", err)
	}
	if e, err := s.Lookup(digest.FromString("key 1")); e == nil {
		t.Errorf("the entry is not found again, %v", err)
	}
	if e, _, err := s.ClaimSet("cache 1").Lookup(digest.FromString("claimed alias 1")); e == nil {
		t.Errorf("the claim is not found again, %v", err)
	}
	if got := s.ClaimOrigins(); len(got) != 1 || got[0] != "cache 1" {
		t.Errorf("after the repair, the claims are of %q", got)
	}
	if _, ok, err := s.Image("docker.io/library/moves:latest"); !ok {
		t.Errorf("the image is not found again, %v", err)
	}
	if _, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil {
		t.Errorf("prune: %v", err)
	}
}

// TestFileForClaimed: a file in the place of the claims of a remote cache is found, removed and pruned, also if no
// build names that cache again.
func TestFileForClaimed(t *testing.T) {
	for _, name := range []string{digest.FromString("gone").Encoded(), "other"} {
		s := open(t, t.TempDir())
		at := s.path(dirClaimed, name)
		if err := os.WriteFile(at, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) != 1 || found[0].Path != at {
			t.Errorf("check: %v, %v", found, err)
		}
		if _, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(at); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after prune: %v", err)
		}
	}
}

// TestDamagedImageList: a damaged list of images is restored with all its names by its first reader, which says so
// once. It is not taken for an empty one, or the next collection would evict the images.
func TestDamagedImageList(t *testing.T) {
	for how, damage := range damages {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			var notes []string
			s.SetNote(func(text string) { notes = append(notes, text) })
			manifest := putManifest(t, s, putBlob(t, s, "layer"))
			for _, name := range []string{"docker.io/library/a:1", "docker.io/library/b:1"} {
				putImage(t, s, name, KindBuilt, manifest)
			}
			if err := damage(s.indexPath()); err != nil {
				t.Fatal(err)
			}
			found, err := s.Check(t.Context(), CheckOptions{})
			if err != nil || len(found) != 1 || found[0].Path != s.indexPath() || len(notes) > 0 {
				t.Errorf("check: %v, %v, %q", found, err, notes)
			}
			for range 2 {
				images, err := s.Images()
				if err != nil || len(images) != 2 || images[0].Digest != manifest || images[0].Kind != KindBuilt {
					t.Errorf("images: %v, %v", images, err)
				}
			}
			if len(notes) != 1 || !strings.Contains(notes[0], "restored from its copy: 2, which are all") {
				t.Errorf("notes: %q", notes)
			}
			if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) > 0 {
				t.Errorf("check, after it was restored: %v, %v", found, err)
			}
		})
	}
}

// TestLostImageNames: names that cannot be restored are named.
func TestLostImageNames(t *testing.T) {
	s := open(t, t.TempDir())
	var notes []string
	s.SetNote(func(text string) { notes = append(notes, text) })
	kept, gone := putManifest(t, s, putBlob(t, s, "kept")), putManifest(t, s, putBlob(t, s, "gone"))
	putImage(t, s, "docker.io/library/kept:1", KindBuilt, kept)
	putImage(t, s, "docker.io/library/gone:1", KindBuilt, gone)
	if err := errors.Join(os.Remove(s.BlobPath(gone)), damages["truncated"](s.indexPath())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemoveImage("docker.io/library/other:1"); err != nil { // a change restores it, too
		t.Fatal(err)
	}
	if images, err := s.Images(); err != nil || len(images) != 1 || images[0].Digest != kept {
		t.Errorf("images: %v, %v", images, err)
	}
	if len(notes) != 1 || !strings.HasSuffix(notes[0], "are gone: docker.io/library/gone:1") {
		t.Errorf("notes: %q", notes)
	}
	for _, path := range []string{s.indexPath(), s.path(fileImages)} {
		if err := damages["garbage"](path); err != nil {
			t.Fatal(err)
		}
	}
	if images, err := s.Images(); err != nil || len(images) > 0 {
		t.Errorf("images without a copy: %v, %v", images, err)
	}
	if len(notes) != 2 || !strings.Contains(notes[1], "the names of all images are lost") {
		t.Errorf("notes: %q", notes)
	}
}

// TestCopyOfImageList: the copy is renewed when an earlier version, which writes none, changed the list.
func TestCopyOfImageList(t *testing.T) {
	s := open(t, t.TempDir())
	manifest := putManifest(t, s, putBlob(t, s, "layer"))
	putImage(t, s, "docker.io/library/a:1", KindBuilt, manifest)
	raw, err := os.ReadFile(s.indexPath())
	if err != nil {
		t.Fatal(err)
	}
	changed := []byte(strings.ReplaceAll(string(raw), "library/a:1", "library/z:1"))
	later := time.Now().Add(time.Second)
	err = errors.Join(os.WriteFile(s.indexPath(), changed, 0o600), os.Chtimes(s.indexPath(), later, later))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Images(); err != nil {
		t.Fatal(err)
	}
	if err := damages["empty"](s.indexPath()); err != nil {
		t.Fatal(err)
	}
	images, err := s.Images()
	named := slices.ContainsFunc(images, func(i Image) bool { return i.Name == "docker.io/library/z:1" })
	if err != nil || len(images) != 1 || !named {
		t.Errorf("images: %v, %v", images, err)
	}
}

// TestDeniedImageList: a list that another user owns is not damaged: replacing it would lose names.
func TestDeniedImageList(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	s := open(t, t.TempDir())
	putImage(t, s, "docker.io/library/a:1", KindBuilt, putManifest(t, s, putBlob(t, s, "layer")))
	if err := os.Chmod(s.indexPath(), 0); err != nil {
		t.Fatal(err)
	}
	if images, err := s.Images(); err != nil || len(images) != 1 {
		t.Errorf("a list without permissions: %v, %v", images, err)
	}
	if info, err := os.Lstat(s.indexPath()); err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("%v, %v", info, err)
	}
}
