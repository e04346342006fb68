package embedded

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/registry"
)

// TestRemoteCacheFaults tries caches that cannot be read or written: each is a warning.
func TestRemoteCacheFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	buildkit := t.TempDir()
	if err := os.WriteFile(filepath.Join(buildkit, "index.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := t.TempDir()
	if err := os.WriteFile(filepath.Join(garbage, "index.zst"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name     string
		from, to config.Attrs
		want     string
	}{
		{"inline", config.Attrs{"type": "inline"}, nil, "stores no cache in images"},
		{"gha", nil, config.Attrs{"type": "gha"}, "type=local and type=registry"},
		{"no directory", nil, config.Attrs{"type": "local"}, "needs dest=DIR"},
		{"mode", nil, local("dest", t.TempDir(), "mode", "all"), "expected min or max"},
		{"attribute", nil, local("dest", t.TempDir(), "colour", "red"), "unknown attribute colour"},
		{"a file", nil, local("dest", file), "is not written"},
		{"of BuildKit", local("src", buildkit), nil, "only BuildKit reads"},
		{"garbage", local("src", garbage), nil, "is not used"},
		{"no registry", config.Attrs{"type": "registry", "ref": "127.0.0.1:1/x"}, nil, "is not used"},
		{"no name", config.Attrs{"type": "registry", "ref": "X Y"}, nil, "ref=X Y"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
			v.client = registry.New(registry.Options{Backoff: func(int) time.Duration { return 0 }})
			v.newCache()
			v.use(c.from, c.to)
			v.must("copy /a.txt /b.txt")
			v.wantWarning(c.want)
		})
	}
	t.Run("nothing there yet", func(t *testing.T) {
		v := newTraveller(t, map[string]string{"Dockerfile": copyAndRun, "a.txt": "one"})
		v.use(local("src", filepath.Join(t.TempDir(), "none")), nil)
		v.must("copy /a.txt /b.txt")
		v.noWarnings()
	})
}

// TestRemoteCacheMounts exports the requested cache mounts.
func TestRemoteCacheMounts(t *testing.T) {
	v := newTraveller(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a.txt /a\nRUN " +
		"--mount=type=cache,id=one,target=/m --mount=type=cache,target=/n [\"write\", \"/x\", \"1\"]\n", "a.txt": "a"})
	dir := t.TempDir()
	v.use(nil, local("dest", dir, "mounts", "one;other"))
	at := time.Unix(1700000000, 987654321)
	v.runner.hold = nil
	v.must("write /x 1")
	fill := func(id string) string {
		m, err := v.store.SeededMount(id)
		if err != nil || m == nil {
			t.Fatal(id, m, err)
		}
		defer m.Release()
		return m.Dir
	}
	inside := filepath.Join(fill("/one"), "sub", "file")
	if err := os.MkdirAll(filepath.Dir(inside), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inside, []byte("kept"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(inside, at, at); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fill("//n"), "file"), []byte("left"), 0o640); err != nil {
		t.Fatal(err)
	}
	v.must()
	v.move(local("src", dir), nil)
	v.write(map[string]string{"a.txt": "changed"})
	v.must("write /x 1")
	p, _, err := remotecache.Parse(local("src", dir), false, "/")
	if err != nil {
		t.Fatal(err)
	}
	inside = filepath.Join(fill(filledName("/one", taint{p.Origin().ID()})), "sub", "file")
	text, err := os.ReadFile(inside)
	info, serr := os.Stat(inside)
	if err != nil || serr != nil || string(text) != "kept" || !info.ModTime().Equal(at) || info.Mode().Perm() != 0o640 {
		t.Errorf("%q %v %v %v", text, info, err, serr)
	}
	if names, err := os.ReadDir(fill("//n")); err != nil || len(names) > 0 {
		t.Errorf("the other mount has %v, %v", names, err)
	}
	v.noWarnings()
}

// TestRemoteCacheUnion exports two targets to one place, and builds each from it elsewhere.
func TestRemoteCacheUnion(t *testing.T) {
	v := newTraveller(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY a.txt /a\nRUN [\"write\", \"/x\", \"1\"]\n",
		"two":        "FROM scratch\nRUN [\"write\", \"/y\", \"2\"]\n", "a.txt": "a",
	})
	v.targets = append(v.targets, &config.Target{Name: "web", Dockerfile: "two",
		Outputs: []config.Attrs{{"type": "cacheonly"}}})
	dir := t.TempDir()
	v.use(nil, local("dest", dir))
	v.must("write /x 1", "write /y 2")
	v.move(local("src", dir), nil)
	v.must()
	v.noWarnings()
}
