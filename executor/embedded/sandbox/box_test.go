package sandbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
)

func TestMain(m *testing.M) {
	code, done, err := sandbox.Enter(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if !done {
		code = m.Run()
	}
	os.Exit(code)
}

// box is a sandbox with a root that holds busybox, and a layer on top of it.
type box struct {
	lower, upper, work, mountpoints string
	sandbox                         sandbox.Sandbox
}

func newBox(t testing.TB) *box {
	t.Helper()
	const busybox = "/bin/busybox"
	raw, err := os.ReadFile(busybox)
	if err != nil {
		skip(t, "needs a static busybox: apt-get install busybox-static")
	}
	dir := t.TempDir()
	b := &box{lower: dir + "/lower", upper: dir + "/upper", work: dir + "/work", mountpoints: dir + "/mountpoints"}
	b.sandbox.Filters = seccomp.Filters
	for _, d := range []string{b.lower, b.upper, b.work, b.lower + "/bin", b.lower + "/etc", b.lower + "/tmp"} {
		check(t, os.Mkdir(d, 0o755))
	}
	check(t, os.Chmod(b.lower+"/tmp", 0o777|os.ModeSticky))
	check(t, os.WriteFile(b.lower+"/bin/busybox", raw, 0o755))
	const commands = "sh cat ls id mount mkdir rm mv touch echo test ps sleep kill hostname env stat ln find mknod " +
		"chown chmod wc grep true unshare dd ip ping seq umask readlink su"
	for _, name := range strings.Fields(commands) {
		check(t, os.Symlink("busybox", b.lower+"/bin/"+name))
	}
	const passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
	check(t, os.WriteFile(b.lower+"/etc/passwd", []byte(passwd), 0o644))
	if _, err := b.run(t, "true"); err != nil {
		var no *sandbox.UnavailableError
		if errors.As(err, &no) {
			skip(t, err.Error())
		}
		t.Fatal(err)
	}
	return b
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// spec returns a spec that runs a shell script in the box.
func (b *box) spec(script string) sandbox.Spec {
	return sandbox.Spec{
		Root: sandbox.Overlay{Lower: []string{b.lower}, Upper: b.upper, Work: b.work},
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin", "HOME=/root"}, Cwd: "/",
		Hostname: "box", Hosts: []byte("127.0.0.1 localhost\n"), ResolvConf: []byte("nameserver 127.0.0.1\n"),
		MountpointDir: b.mountpoints,
	}
}

// run runs a script and returns its output.
func (b *box) run(t testing.TB, script string) (string, error) {
	t.Helper()
	return b.runSpec(t, b.spec(script))
}

// runSpec runs a spec and returns its output. An exit code other than 0 is an exitError.
func (b *box) runSpec(t testing.TB, spec sandbox.Spec) (string, error) {
	t.Helper()
	b.reset(t)
	var out output
	spec.Stdout, spec.Stderr = &out, &out
	res, err := b.sandbox.Run(t.Context(), spec)
	if err == nil && res.ExitCode != 0 {
		err = &exitError{res.ExitCode, out.String()}
	}
	return out.String(), err
}

// output collects the output of a command on two descriptors.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(p)
}

func (o *output) String() string { return o.all.String() }

// reset replaces the overlay's work directory, which serves one mount only.
func (b *box) reset(t testing.TB) {
	t.Helper()
	check(t, os.RemoveAll(b.work))
	check(t, os.Mkdir(b.work, 0o700))
}

type exitError struct {
	code int
	out  string
}

func (e *exitError) Error() string { return "exit " + string(rune('0'+e.code%10)) + ": " + e.out }

// changed returns the paths in the box's layer.
func (b *box) changed(t testing.TB) string {
	t.Helper()
	var all []string
	check(t, filepath.WalkDir(b.upper, func(p string, _ fs.DirEntry, err error) error {
		if p != b.upper {
			all = append(all, strings.TrimPrefix(p, b.upper))
		}
		return err
	}))
	return strings.Join(all, " ")
}

// needIDs skips the test in a user namespace with only one id.
func needIDs(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/uid_map")
	check(t, err)
	if f := strings.Fields(string(raw)); len(f) == 3 && f[2] == "1" {
		skip(t, "needs more than one id: "+idmap.Remedy)
	}
}
