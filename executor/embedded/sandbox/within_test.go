package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// within returns a spec that shows what is mounted from a path below source.
func (b *box) within(source, path string) sandbox.Spec {
	s := b.spec("cat /m/f /m 2>/dev/null; ls /m")
	s.Mounts = []sandbox.Mount{{Dest: "/m", Kind: sandbox.Bind, Source: source, Within: path, Readonly: true}}
	return s
}

// TestWithin checks that a path below the source of a bind mount does not lead out of it.
func TestWithin(t *testing.T) {
	b := newBox(t)
	source, outside := t.TempDir(), t.TempDir()
	check(t, os.MkdirAll(source+"/a/b", 0o755))
	check(t, os.WriteFile(source+"/a/b/f", []byte("inside"), 0o644))
	check(t, os.WriteFile(outside+"/f", []byte("outside"), 0o644))
	for name, target := range map[string]string{"rel": "a/b", "abs": "/a/b", "up": "../../../../../../../a/b",
		"out": outside, "loop": "loop", "magic": "/proc/self/cwd"} {
		check(t, os.Symlink(target, filepath.Join(source, name)))
	}
	for path, want := range map[string]string{
		"a/b": "inside", "/a/b": "inside", "a/b/f": "inside", "rel": "inside", "abs": "inside", "up": "inside",
		"../../../../a/b": "inside", "a/../rel": "inside",
		"out": "no such file", "loop": "symbolic links", "magic": "no such file", "none": "no such file",
	} {
		out, err := b.runSpec(t, b.within(source, path))
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, want) || strings.Contains(out, "outside") {
			t.Errorf("%s: got %q, want %q", path, out, want)
		}
	}
}

// TestWithinRace checks that a mount never leads out of its source while another process exchanges a directory on its
// path and a symbolic link (CVE-2024-23651).
func TestWithinRace(t *testing.T) {
	b := newBox(t)
	source, outside := t.TempDir(), t.TempDir()
	check(t, os.MkdirAll(source+"/a/b", 0o755))
	check(t, os.WriteFile(source+"/a/b/f", []byte("inside"), 0o644))
	check(t, os.MkdirAll(outside+"/b", 0o755))
	check(t, os.WriteFile(outside+"/b/f", []byte("outside"), 0o644))
	check(t, os.Symlink(outside, source+"/link"))
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for err == nil {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
				err = unix.Renameat2(unix.AT_FDCWD, source+"/a", unix.AT_FDCWD, source+"/link", unix.RENAME_EXCHANGE)
			}
		}
		stopped <- err
	}()
	seen := map[string]int{}
	// A refused mount costs so little that many can pass before the other goroutine runs.
	end := time.Now().Add(20 * time.Second)
	for n := 0; n < 200 || (seen["inside"] < 20 || seen["refused"] < 20) && time.Now().Before(end); n++ {
		out, err := b.runSpec(t, b.within(source, "a/b"))
		switch {
		case strings.Contains(out, "outside"):
			t.Fatalf("the mount leads out of its source: %q", out)
		case err == nil && strings.Contains(out, "inside"):
			seen["inside"]++
		case err != nil && strings.Contains(err.Error(), "mount /m"):
			seen["refused"]++
		default:
			t.Fatalf("got %q, %v", out, err)
		}
	}
	close(stop)
	check(t, <-stopped)
	if seen["inside"] < 20 || seen["refused"] < 20 {
		t.Errorf("no race: %v", seen)
	}
}
