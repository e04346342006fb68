package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// TestRun checks what a step sees of its sandbox, and that nothing of it is in the step's layer.
func TestRun(t *testing.T) {
	cases := []struct{ name, script, want string }{
		{"first process", "echo $$; ps >/dev/shm/ps; wc -l </dev/shm/ps", "1\n3\n"},
		{"host name", "hostname", "box\n"},
		{"environment", "env | grep -v -e PWD -e SHLVL", "HOME=/root\nPATH=/bin\n"},
		{"umask", "umask", "0022\n"},
		{"stdin", "wc -c", "0\n"},
		{"capabilities", "grep -e CapEff -e CapBnd -e CapInh -e CapAmb -e NoNewPrivs -e Seccomp: /proc/self/status",
			"CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n" +
				"CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"},
		{"descriptors", "ls /proc/self/fd | wc -l", "4\n"}, // 0 1 2 and ls's own
		{"hosts", "cat /etc/hosts /etc/resolv.conf", "127.0.0.1 localhost\nnameserver 127.0.0.1\n"},
		{"loopback", "ip -o addr show lo | grep -c 127.0.0.1", "1\n"},
		{"devices", "echo x >/dev/null; test -c /dev/zero -a -c /dev/tty -a -d /dev/shm -a -e /dev/ptmx && echo ok",
			"ok\n"},
		{"masked", "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l",
			"0\n0\n"},
		{"zero", "for d in zero urandom; do dd if=/dev/$d bs=1 count=3 2>/dev/null | wc -c; done", "3\n3\n"},
		{"links", "readlink /dev/fd", "/proc/self/fd\n"},
	}
	b := newBox(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := b.run(t, c.script)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := b.changed(t); got != "" {
		t.Errorf("the layer holds %s", got)
	}
}

// TestRefused checks that the sandbox refuses what a step must not do.
func TestRefused(t *testing.T) {
	b := newBox(t)
	for name, script := range map[string]string{
		"mount":              "mount -t tmpfs x /tmp",
		"remount proc":       "mount -o remount,rw /proc/sys",
		"user namespace":     "unshare -U true",
		"mount namespace":    "unshare -m true",
		"sysctl":             "echo 1 >/proc/sys/kernel/panic",
		"sysrq":              "echo h >/proc/sysrq-trigger",
		"sysfs":              "echo 1 >/sys/kernel/mm/ksm/run",
		"device in the root": "mknod /tmp/d c 1 5 && dd if=/tmp/d of=/tmp/x bs=1 count=1",
		"device in /dev":     "mknod /dev/d c 1 5 && dd if=/dev/d of=/tmp/x bs=1 count=1",
		"device in /dev/shm": "mknod /dev/shm/d c 1 5 && dd if=/dev/shm/d of=/tmp/x bs=1 count=1",
		"hosts":              "echo x >>/etc/hosts",
		"interrupts":         "test -s /proc/interrupts",
		"the outer /proc":    "ls /proc/1/root/proc/2/root/work",
		"host name change":   "hostname other",
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := b.run(t, script); err == nil {
				t.Errorf("succeeded: %s", out)
			}
		})
	}
}

// TestDevicesAreItsOwn checks that a step that changes its device nodes does not change the machine's.
func TestDevicesAreItsOwn(t *testing.T) {
	b := newBox(t)
	before, err := os.Stat("/dev/null")
	check(t, err)
	_, _ = b.run(t, "chmod 600 /dev/null; chown 1:1 /dev/null")
	after, err := os.Stat("/dev/null")
	check(t, err)
	if before.Mode() != after.Mode() {
		t.Errorf("the machine's /dev/null was %v and is %v", before.Mode(), after.Mode())
	}
}

// TestLayer checks that the layer of a step holds exactly the step's changes: new files and whiteouts, but no
// mountpoints.
func TestLayer(t *testing.T) {
	b := newBox(t)
	s := b.spec("echo 1 >/new; rm /etc/passwd; mkdir -p /d/e; echo 2 >/mnt/c/out; echo 3 >/deep/er/out; echo 4 >/t/f")
	for _, d := range []string{"cache", "in"} {
		check(t, os.Mkdir(filepath.Join(filepath.Dir(b.lower), d), 0o755))
	}
	cache := filepath.Join(filepath.Dir(b.lower), "cache")
	s.Mounts = []sandbox.Mount{
		{Dest: "/mnt/c", Kind: sandbox.Bind, Source: cache},
		{Dest: "/deep/er", Kind: sandbox.Bind, Source: cache},
		{Dest: "/t", Kind: sandbox.Tmpfs, Mode: 0o755},
		{Dest: "/run/secrets/s", Kind: sandbox.File, Content: []byte("secret"), Mode: 0o400, Readonly: true},
	}
	if out, err := b.runSpec(t, s); err != nil {
		t.Fatal(out, err)
	}
	if got, want := b.changed(t), "/d /d/e /etc /etc/passwd /new"; got != want {
		t.Errorf("the layer holds %s, want %s", got, want)
	}
	if raw, err := os.ReadFile(cache + "/out"); err != nil || string(raw) != "3\n" {
		t.Errorf("cache mount: %q, %v", raw, err)
	}
	var st unix.Stat_t
	check(t, unix.Lstat(b.upper+"/etc/passwd", &st))
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("/etc/passwd is not a whiteout: mode %o", st.Mode)
	}
}

// TestLinks checks that no link in the root leads a mount out of it, and that mountpoints behind links are removed.
func TestLinks(t *testing.T) {
	b := newBox(t)
	outside := t.TempDir()
	check(t, os.Symlink(outside, b.lower+"/abs"))
	check(t, os.Symlink("../../../../../../../../.."+outside, b.lower+"/rel"))
	check(t, os.Symlink("/tmp/in/it", b.lower+"/copied")) // below an existing directory, which overlayfs copies up
	check(t, os.Symlink("loop", b.lower+"/loop"))
	src := t.TempDir()
	check(t, os.WriteFile(src+"/f", []byte("x"), 0o644))
	for _, dest := range []string{"/abs/m", "/rel/m", "/copied/m", "../../../m"} {
		s := b.spec("cat " + filepath.Join("/", dest) + "/f; cat /m/f 2>/dev/null")
		s.Mounts = []sandbox.Mount{{Dest: dest, Kind: sandbox.Bind, Source: src, Readonly: true}}
		out, _ := b.runSpec(t, s)
		if !strings.HasPrefix(out, "x") {
			t.Errorf("%s: got %q", dest, out)
		}
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("outside: %v %v", names, err)
	}
	if got := b.changed(t); got != "" {
		t.Errorf("the layer holds %s", got)
	}
	s := b.spec("true")
	s.Mounts = []sandbox.Mount{{Dest: "/loop/m", Kind: sandbox.Bind, Source: src}}
	if _, err := b.runSpec(t, s); err == nil || !strings.Contains(err.Error(), "mount /loop/m") {
		t.Errorf("got %v", err)
	}
}

// TestHostileRoot checks that a root whose /proc, /sys or /dev is a link is refused.
func TestHostileRoot(t *testing.T) {
	for _, name := range []string{"proc", "sys", "dev"} {
		b := newBox(t)
		check(t, os.Symlink("/tmp", b.lower+"/"+name))
		if _, err := b.run(t, "true"); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("/%s as a link: %v", name, err)
		}
	}
}

// TestSelf checks that a step cannot write to the program of its init process through /proc/self/exe.
func TestSelf(t *testing.T) {
	b := newBox(t)
	check(t, os.WriteFile(b.lower+"/bin/evil", []byte("#!/proc/self/exe\n"), 0o755))
	s := b.spec("")
	s.Args = []string{"/bin/evil"}
	before, err := os.Stat("/proc/self/exe")
	check(t, err)
	_, _ = b.runSpec(t, s)
	after, err := os.Stat("/proc/self/exe")
	check(t, err)
	if !before.ModTime().Equal(after.ModTime()) || before.Size() != after.Size() {
		t.Error("the program changed")
	}
}

// TestUser checks a step of a user other than root: its ids, capabilities and permissions.
func TestUser(t *testing.T) {
	needIDs(t)
	b := newBox(t)
	s := b.spec("id -u; id -g; grep CapEff /proc/self/status; touch /tmp/f && ls -n /tmp/f >/dev/null && echo ok; " +
		"touch /etc/no 2>/dev/null || echo no")
	s.UID, s.GID, s.Groups = 1000, 1001, []uint32{7}
	out, err := b.runSpec(t, s)
	if err != nil || out != "1000\n1001\nCapEff:\t0000000000000000\nok\nno\n" {
		t.Errorf("got %q %v", out, err)
	}
}

// TestCommandNotFound checks the exit codes of commands that cannot be started.
func TestCommandNotFound(t *testing.T) {
	b := newBox(t)
	for name, want := range map[string]int{"nothing": 127, "/nothing": 127, "/etc/passwd": 126} {
		s := b.spec("")
		s.Args = []string{name}
		_, err := b.runSpec(t, s)
		var exit *exitError
		if !errors.As(err, &exit) || exit.code != want || !strings.Contains(exit.out, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWorkDir checks that a missing working directory is created in the layer, owned by the user.
func TestWorkDir(t *testing.T) {
	needIDs(t)
	b := newBox(t)
	s := b.spec("pwd")
	s.Cwd, s.UID, s.GID = "/srv/app", 1000, 1001
	if out, err := b.runSpec(t, s); err != nil || out != "/srv/app\n" {
		t.Errorf("got %q %v", out, err)
	}
	var st unix.Stat_t
	check(t, unix.Lstat(b.upper+"/srv", &st))
	if st.Uid != 1000 || st.Mode&0o7777 != 0o755 {
		t.Errorf("/srv: %d %o", st.Uid, st.Mode)
	}
}

// TestCancel checks that a cancelled step ends with all its processes: at once, or within Grace if it handles SIGTERM.
func TestCancel(t *testing.T) {
	b := newBox(t)
	b.sandbox.Grace = 50 * time.Millisecond
	for name, script := range map[string]string{
		"no handler": "sleep 1000 & echo started; sleep 1000",
		"handler":    "trap 'exit 0' TERM; echo started; while :; do sleep 0.01; done",
		"ignores":    "trap '' TERM; echo started; sleep 1000",
		"slow":       "trap 'sleep 1000' TERM; echo started; while :; do sleep 0.01; done",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			stop := errors.New("stop")
			b.reset(t)
			s := b.spec(script)
			s.Stdout = onWrite(func() { cancel(stop) })
			if _, err := b.sandbox.Run(ctx, s); !errors.Is(err, stop) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// onWrite is a writer that calls a function, which must allow more than one call.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// TestLeftOvers checks that background processes end with the step.
func TestLeftOvers(t *testing.T) {
	b := newBox(t)
	if out, err := b.run(t, "sleep 1000 & sleep 1000 & echo done"); err != nil || out != "done\n" {
		t.Errorf("got %q %v", out, err)
	}
}

// TestManyLayers checks a root with more layers than fit into one mount option.
func TestManyLayers(t *testing.T) {
	b := newBox(t)
	s := b.spec("ls / | grep -c layer")
	for i := range 120 {
		dir := filepath.Join(t.TempDir(), "a-rather-long-name-of-a-layer-so-that-all-of-them-do-not-fit")
		check(t, os.Mkdir(dir, 0o755))
		check(t, os.WriteFile(filepath.Join(dir, "layer"+string(rune('a'+i%26))+string(rune('a'+i/26))), nil, 0o644))
		s.Root.Lower = append(s.Root.Lower, dir)
	}
	if out, err := b.runSpec(t, s); err != nil || out != "120\n" {
		t.Errorf("got %q %v", out, err)
	}
}

// TestTooManyLayers checks the error for more layers than the kernel stacks.
func TestTooManyLayers(t *testing.T) {
	b := newBox(t)
	s := b.spec("true")
	for len(s.Root.Lower) < 501 {
		s.Root.Lower = append(s.Root.Lower, b.lower)
	}
	if _, err := b.runSpec(t, s); err == nil || !strings.Contains(err.Error(), "more layers than the 499") {
		t.Errorf("got %v", err)
	}
}

// TestReadonlyRoot checks a root without Upper.
func TestReadonlyRoot(t *testing.T) {
	b := newBox(t)
	s := b.spec("cat /etc/passwd >/dev/null && echo read; touch /x 2>/dev/null || echo no")
	s.Root.Upper, s.Root.Work = "", ""
	if out, err := b.runSpec(t, s); err != nil || out != "read\nno\n" {
		t.Errorf("got %q %v", out, err)
	}
}

// TestInsecure checks that an insecure step can mount and has no seccomp filter.
func TestInsecure(t *testing.T) {
	b := newBox(t)
	s := b.spec("mount -t tmpfs x /tmp && echo ok; grep Seccomp: /proc/self/status")
	s.Insecure = true
	if out, err := b.runSpec(t, s); err != nil || out != "ok\nSeccomp:\t0\n" {
		t.Errorf("got %q %v", out, err)
	}
}

// BenchmarkRun measures a step that does nothing, without a network and with one that it does not use.
func BenchmarkRun(b *testing.B) {
	b.Run("isolated", func(b *testing.B) { benchmarkRun(b, nil) })
	b.Run("connected", func(b *testing.B) { benchmarkRun(b, &network.Network{}) })
}

func benchmarkRun(b *testing.B, outside sandbox.Outside) {
	x := newBox(b)
	x.sandbox.Outside = outside
	s := x.spec("")
	s.Args = []string{"/bin/true"}
	for b.Loop() {
		x.reset(b)
		if _, err := x.sandbox.Run(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
}
