package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
)

// watched is a running bake build --watch.
type watched struct {
	c     *cli
	lines chan string
	ended chan int
	stop  func()
}

// startWatch starts bake build --watch; it ends with the test.
func startWatch(t *testing.T, c *cli, args ...string) *watched {
	t.Helper()
	cmd := bakeCommand(t, append([]string{"build", "--watch", "--progress=none"}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+c.cache, "BUILDX_BAKE_ENTITLEMENTS_FS=0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &watched{c: c, lines: make(chan string, 1000), ended: make(chan int, 1)}
	w.stop = func() { _ = cmd.Process.Signal(syscall.SIGINT) }
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	go func() {
		for s := bufio.NewScanner(stderr); s.Scan(); {
			w.lines <- s.Text()
		}
		_ = cmd.Wait() // the exit code is sent
		w.ended <- cmd.ProcessState.ExitCode()
	}()
	return w
}

// expect waits for lines that match the patterns, in this order. Other lines may be in between.
func (w *watched) expect(t *testing.T, patterns ...string) {
	t.Helper()
	var seen []string
	end := untilDeadline(t)
	for _, p := range patterns {
		for re, found := regexp.MustCompile(p), false; !found; {
			select {
			case line := <-w.lines:
				seen = append(seen, line)
				found = re.MatchString(line)
			case <-end.Done():
				t.Fatalf("no line matches %s; the lines were %q", p, seen)
			}
		}
	}
}

// interrupt sends an interrupt, after which bake must exit with its code.
func (w *watched) interrupt(t *testing.T) {
	t.Helper()
	w.stop()
	select {
	case code := <-w.ended:
		if code != 130 {
			t.Errorf("exit code %d after an interrupt", code)
		}
	case <-untilDeadline(t).Done():
		t.Error("bake does not end")
	}
}

// TestWatch shows that a change of a file that is read builds the affected targets, and only those. A failed build
// waits for the next change, and a change during a build starts another build.
func TestWatch(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "bake.hcl", `group "default" { targets = ["a", "b"] }
target "a" {
  dockerfile-inline = "FROM scratch\nCOPY a /a"
  tags = ["a:1"]
  test "x" { file = "/a/x" }
}
target "b" {
  contexts = { host = "/bin" }
  tags     = ["b:1"]
}
`)
	const dockerfile = "FROM scratch\nCOPY --from=host busybox /bin/sh\nCOPY b /b\n" +
		"RUN read x </b/y; test $x != long || /bin/sh -c 'usleep 2000000 2>/dev/null || sleep 2'\n"
	c.write(t, "Dockerfile", dockerfile)
	c.write(t, ".dockerignore", "out\n**/*.swp\n")
	c.write(t, "a/x", "1")
	c.write(t, "b/y", "1")
	c.write(t, "out/deep/other", "1")
	w := startWatch(t, c)
	w.expect(t, "built a:1", "built b:1", "watching [45] folders") // one more where /bin is a link

	// Files that are ignored or not read do not count. Only affected targets are built.
	c.write(t, "out/deep/f", "2")
	c.write(t, "b/.y.swp", "2")
	c.write(t, "README", "2")
	c.write(t, "a/x", "2")
	w.expect(t, "^note: changed: a/x; building a$", "^1 step: 1 ran|^2 steps: 2 ran", "built a:1", "watching")
	// A new folder is watched too.
	c.write(t, "a/new/deep/z", "3")
	w.expect(t, "^note: changed: a/new.*; building a$", "built a:1", "watching [567] folders")
	c.write(t, "a/new/deep/z", "4")
	w.expect(t, "^note: changed: a/new/deep/z; building a$", "built a:1", "watching [67] folders")
	// A build that fails waits for the next change.
	c.write(t, "Dockerfile", dockerfile+"COPPY\n")
	w.expect(t, "^note: changed: Dockerfile$", "unknown instruction", "watching")
	c.write(t, "Dockerfile", dockerfile+"ENV X=1\n")
	w.expect(t, "^note: changed: Dockerfile; building b$", "built b:1", "watching")
	if err := os.Remove(filepath.Join(c.dir, "a/x")); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "^note: changed: a/x; building a$", "error: .*want it to exist", "watching")
	c.write(t, "a/x", "5")
	w.expect(t, "building a$", "built a:1", "watching")
	// A change during a build starts another build.
	c.write(t, "b/y", "long")
	w.expect(t, "building b$")
	c.write(t, "b/y", "short")
	w.expect(t, "built b:1", "^note: changed: b/y; building b$", "(built|unchanged) b:1", "watching")

	w.interrupt(t)
}

// TestWatchLinks shows that changes are seen through links: a Dockerfile, a context and its files are read through
// them, links change their targets, and folders are renamed.
func TestWatchLinks(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "bake.hcl", "target \"default\" {\n  context = \"deep/ctx\"\n  dockerfile = \"../linked\"\n"+
		"  tags = [\"a:1\"]\n}\n")
	const dockerfile = "FROM scratch\nCOPY link/f /\nCOPY sub/*.txt /\n"
	c.write(t, "common/x/Dockerfile", dockerfile)
	for _, dir := range []string{"one", "two"} {
		c.write(t, dir+"/real/f", dir)
		c.write(t, dir+"/sub/x.txt", dir)
		c.write(t, dir+"/unread", dir)
	}
	link := func(to, name string) {
		t.Helper()
		path := filepath.Join(c.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.RemoveAll(path),
			os.Symlink(to, path)); err != nil {
			t.Fatal(err)
		}
	}
	link("../common/x/Dockerfile", "deep/linked")
	link("../one", "deep/ctx")
	link("real", "one/link")
	link("/real", "two/link")
	w := startWatch(t, c)
	w.expect(t, "built a:1", "watching")
	saved := func(name, text string) {
		t.Helper()
		c.write(t, name, text)
		w.expect(t, "changed: .*"+regexp.QuoteMeta(filepath.Base(name))+".*building default$", "built a:1", "watching")
	}
	saved("common/x/Dockerfile", dockerfile+"ENV A=1\n")
	saved("one/real/f", "2")
	link("../two", "deep/ctx")
	w.expect(t, "changed: .*deep/ctx.*building default$", "built a:1", "watching")
	saved("two/real/f", "3")
	saved("two/sub/x.txt", "3")
	c.write(t, "one/real/f", "not read")
	c.write(t, "two/unread", "not read either")
	// The parent of a watched folder is renamed, and another folder gets its name.
	c.write(t, "new/x/Dockerfile", dockerfile+"ENV A=2\n")
	for _, move := range [][2]string{{"common", "old"}, {"new", "common"}} {
		if err := os.Rename(filepath.Join(c.dir, move[0]), filepath.Join(c.dir, move[1])); err != nil {
			t.Fatal(err)
		}
	}
	saved("two/real/f", "4")
	saved("common/x/Dockerfile", dockerfile+"ENV A=3\n")
}

// TestWatchIncluded shows that a change of a file that a compose file extends starts a build.
func TestWatchIncluded(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "compose.yaml", "services:\n  a:\n    extends: {file: parts/base.conf, service: b}\n    image: a:1\n")
	const base = "services:\n  b:\n    build: {dockerfile_inline: 'FROM scratch', labels: {x: '%d'}}\n"
	c.write(t, "parts/base.conf", fmt.Sprintf(base, 1))
	w := startWatch(t, c, "a")
	w.expect(t, "built a:1", "watching")
	c.write(t, "parts/base.conf", fmt.Sprintf(base, 2))
	w.expect(t, "^note: changed: parts/base.conf; building a$", "built a:1", "watching")
}

// TestWatchRefuses shows that --watch is a usage error where nothing can be watched.
func TestWatchRefuses(t *testing.T) {
	c := newCLI(t)
	for _, args := range [][]string{{"--print"}, {"--check"}, {"--call=outline"}, {"-f", "-"},
		{"https://example.com/x.git"}} {
		if _, stderr, code := c.run(t, append([]string{"build", "--watch"}, args...)...); code != 2 {
			t.Errorf("%q: exit code %d\n%s", args, code, stderr)
		}
	}
}
