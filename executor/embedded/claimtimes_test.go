package embedded

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/remotecache"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// clock is a fakeRunner that also knows: time FROM TO (writes the time of a file, in seconds).
type clock struct{ *fakeRunner }

func (c clock) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	if spec.Args[0] != "time" {
		return c.fakeRunner.Run(ctx, spec)
	}
	c.mu.Lock()
	c.ran = append(c.ran, strings.Join(spec.Args, " "))
	c.mu.Unlock()
	name, dirs := spec.Args[1], spec.Root.Lower
	for _, m := range spec.Mounts {
		if rest, ok := strings.CutPrefix(name, m.Dest+"/"); ok {
			name, dirs = rest, []string{filepath.Join(m.Source, m.Within)}
			if m.Overlay != nil {
				dirs = m.Overlay.Lower
			}
		}
	}
	var err error
	for _, dir := range dirs {
		var info os.FileInfo
		if info, err = os.Stat(filepath.Join(dir, name)); err == nil {
			text := strconv.FormatInt(info.ModTime().Unix(), 10)
			return sandbox.Result{}, os.WriteFile(filepath.Join(spec.Root.Upper, spec.Args[2]), []byte(text), 0o644)
		}
	}
	return sandbox.Result{}, err
}

// forgedTime is the time that the cache gives to the file of the stage.
var forgedTime = time.Unix(1234567890, 0)

// newClaimedStage returns a site with an empty cache, and a remote cache that has the stage alone, with equal files and
// another time.
func newClaimedStage(t *testing.T, image string) (v *traveller, from config.Attrs) {
	t.Helper()
	v = newTraveller(t, map[string]string{"Dockerfile": image, "stage": claimedStage})
	v.targets[0].Contexts = map[string]string{"build": "target:build"}
	v.targets = append(v.targets, &config.Target{Name: "build", Dockerfile: "stage", Outputs: v.targets[0].Outputs})
	v.tell()
	v.mustRun("write /d/a.o object", "time /in/a.o /when")
	from = v.claimStage()
	v.move(from, nil)
	v.tell()
	return v, from
}

// claimStage returns a remote cache that has the stage alone, with the forged time.
func (v *traveller) claimStage() config.Attrs {
	v.t.Helper()
	f := v.forge()
	f.layerOf(nameOf("5"), "d/a.o", "object", forgedTime)
	serveLayer(f.entry(`"object"]`), nameOf("5"))
	f.index.Entries, f.index.Mounts = []remotecache.Entry{*f.entry(`"object"]`)}, nil
	return local("src", f.write())
}

// tell makes the next builds run the commands with a clock.
func (v *traveller) tell() {
	v.engine = New(v.store, v.client, Options{Runner: clock{v.runner}}).WithCaches(v.caches)
}

const claimedStage = "FROM scratch\nRUN [\"write\", \"/d/a.o\", \"object\"]\n"

// stageReaders are images whose command reads the file of the stage "build" in /in, in all ways in which a step gets
// files of another.
var stageReaders = map[string]string{
	"copy":        "FROM scratch\nCOPY --from=build /d/a.o /in/a.o\n" + readTime,
	"linked copy": "FROM scratch\nCOPY --link --from=build /d/a.o /in/a.o\n" + readTime,
	"copy of a copy": "FROM scratch AS between\nCOPY --from=build /d /d\nFROM scratch\n" +
		"COPY --from=between /d /in\n" + readTime,
	"copy of a linked copy": "FROM scratch AS between\nCOPY --link --from=build /d /d\nFROM scratch\n" +
		"COPY --from=between /d /in\n" + readTime,
	"mount": runWith("bind,from=build,source=/d,target=/in"),
	"mount of a copy": "FROM scratch AS between\nCOPY --from=build /d /d\n" +
		runWith("bind,from=between,source=d,target=/in"),
	"writable mount": runWith("bind,from=build,source=/d,target=/in,rw"),
	"cache mount": "FROM scratch AS between\nCOPY --from=build /d /\n" +
		runWith("cache,id=x,from=between,target=/in"),
	"part of a cache mount": runWith("cache,id=x,from=build,source=/d,target=/in"),
	"locked cache mount":    runWith("cache,id=x,from=build,source=/d,target=/in,sharing=locked"),
	"private cache mount":   runWith("cache,id=x,from=build,source=/d,target=/in,sharing=private"),
}

const readTime = "RUN [\"time\", \"/in/a.o\", \"/when\"]\n"

func runWith(mount string) string {
	return "FROM scratch\n" + strings.Replace(readTime, "RUN", "RUN --mount=type="+mount, 1)
}

// TestClaimedTimes: a cache has a stage with equal files and other times. What a step here makes of the times serves
// builds that name the cache, and no others.
func TestClaimedTimes(t *testing.T) {
	for name, image := range stageReaders {
		t.Run(name, func(t *testing.T) { testClaimedTimes(t, image) })
	}
}

func testClaimedTimes(t *testing.T, image string) {
	v, from := newClaimedStage(t, image)
	forged := strconv.FormatInt(forgedTime.Unix(), 10)
	v.must("time /in/a.o /when")
	v.must()
	if got := v.built("/when"); got != forged {
		t.Errorf("with the cache the time is %s", got)
	}
	v.use(nil, nil)
	v.mustRun("time /in/a.o /when", "write /d/a.o object")
	own := v.built("/when")
	if own == forged {
		t.Errorf("without the cache the time is %s", own)
	}
	for range 2 {
		for _, from := range []config.Attrs{from, nil} {
			v.use(from, nil)
			v.must()
			if got := v.built("/when"); got != own {
				t.Errorf("with %v the time is %s, not that of this machine", from, got)
			}
		}
	}
	v.noWarnings()
}

// TestClaimedTimesOfCandidate: nor does the layer of such a copy serve copies to another parent.
func TestClaimedTimesOfCandidate(t *testing.T) {
	v, from := newClaimedStage(t, stageReaders["copy"])
	v.must("time /in/a.o /when")
	parent := "FROM scratch\nRUN [\"write\", \"/b\", \"b\"]\n"
	v.write(map[string]string{"Dockerfile": strings.Replace(stageReaders["copy"], "FROM scratch\n", parent, 1)})
	v.use(nil, nil)
	v.mustRun("time /in/a.o /when", "write /b b", "write /d/a.o object")
	if got := v.built("/when"); got == strconv.FormatInt(forgedTime.Unix(), 10) {
		t.Errorf("without the cache the time is %s", got)
	}
	v.use(from, nil)
	v.must()
}

// TestClaimedTimesTravel: a cache of results that read a claimed stage serves another machine as any other.
func TestClaimedTimesTravel(t *testing.T) {
	for name, image := range stageReaders {
		t.Run(name, func(t *testing.T) {
			v, from := newClaimedStage(t, image)
			dir := t.TempDir()
			v.use(from, local("dest", dir, "mode", "max"))
			v.must("time /in/a.o /when")
			v.move(local("src", dir), nil)
			v.must()
			v.noWarnings()
		})
	}
}

// TestTaint: the caches behind a result do not depend on the order of its inputs.
func TestTaint(t *testing.T) {
	a, b := taint{"a"}, taint{"b"}
	if got := b.and(a).and(b); !slices.Equal(got, a.and(b)) || len(got) != 2 {
		t.Errorf("got %q", got)
	}
	if got := a.and(nil).and(a); !slices.Equal(got, a) {
		t.Errorf("got %q", got)
	}
}
