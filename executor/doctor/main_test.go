package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bpf "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/cgroup"
	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/scratch"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
)

// place is an environment in which a child of the test runs one check of the machine.
type place struct {
	Check  string   // its name
	Cache  string   // the cache directory
	Etc    string   // of subuid and subgid
	Setup  string   // shell commands that run first, in mount namespaces of their own
	Enter  bool     // enter a user namespace first, as the command does
	Dirs   []string // where layers may be unpacked if they cannot be in the cache
	Files  uint64   // the limit of open files; 0 keeps it
	Denied string   // a system call that fails with EPERM, as a container's filter does
	Absent string   // a system call that fails with ENOSYS, as on an older kernel
	// Packets makes packet sockets fail.
	Packets bool
	// NoGain sets no_new_privs, as a container without privilege escalation does.
	NoGain bool

	attr *syscall.SysProcAttr
	env  []string
	wrap []string // a command that runs the child
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv("DOCTOR_TEST_PLACE"); ok {
		os.Exit(beChild(text))
	}
	os.Exit(m.Run())
}

// in runs a check in an environment and returns its finding.
func (p place) in(t *testing.T) Finding {
	t.Helper()
	if os.Geteuid() != 0 {
		lack(t, "changes namespaces and users; run as root")
	}
	if p.Cache == "" {
		p.Cache = t.TempDir()
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	if len(p.wrap) > 0 {
		cmd = exec.Command(p.wrap[0], append(p.wrap[1:], self(t))...)
	}
	if p.Setup != "" {
		cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", p.Setup+"\nexec "+self(t))
	}
	cmd.Env = append(append(os.Environ(), "DOCTOR_TEST_PLACE="+string(text), "GOCOVERDIR="+t.TempDir()), p.env...)
	cmd.Dir, cmd.SysProcAttr = "/", p.attr
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	var r Result
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %q\n%s", err, out, &errs)
	}
	t.Logf("%s: %s: %s; %s", r.Name, r.Status, r.Detail, r.Fix)
	return r.Finding
}

// self returns the path of the test program.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// beChild runs the check and prints its result.
func beChild(text string) int {
	var p place
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return broken(err)
	}
	u := User{Etc: p.Etc, Proc: "/proc/self"}
	if p.Etc == "" {
		u.Etc = "/etc"
	}
	if p.NoGain {
		if err := load(true, bpf.SyscallGroup{Action: bpf.ActionErrno, Names: []string{"acct"}}); err != nil {
			return broken(err)
		}
	}
	if p.Enter {
		code, done, err := sandbox.Enter(context.Background())
		if done {
			return code
		}
		u.Entered = err
	}
	if err := p.restrict(); err != nil {
		return broken(err)
	}
	place, err := scratch.Find(scratch.Options{CacheDir: p.Cache, Dirs: p.Dirs})
	if err != nil && !errors.Is(err, scratch.ErrMounts) {
		return broken(err)
	}
	defer place.Close()
	dir := &cacheDir{dir: p.Cache, open: cache.Open}
	s := &steps{cache: dir, place: place, network: &network.Network{}}
	if u.Entered != nil {
		s.blocked = "see user namespaces"
	}
	for _, c := range []Check{
		kernel(release, sandbox.MissingCalls), openFiles(), namespaces(u), newuidmap(u), subordinateIDs(u),
		dir.check(), disk(p.Cache), s.sandbox(), s.overlay(), s.seccomp(seccomp.Filters), s.connected(),
		cgroups(&cgroup.Groups{}), git(),
	} {
		if c.Name != p.Check {
			continue
		}
		report := func(r Result) { _ = json.NewEncoder(os.Stdout).Encode(r) }
		err := run(context.Background(), []Check{c}, patience, report)
		if err := errors.Join(err, dir.close()); err != nil {
			return broken(err)
		}
		return 0
	}
	return broken(fmt.Errorf("no check %q", p.Check))
}

func broken(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// restrict applies the limits and filters to this process and its children.
func (p place) restrict() error {
	if p.Files > 0 {
		if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: p.Files, Max: p.Files}); err != nil {
			return err
		}
	}
	const denied, absent = bpf.ActionErrno | bpf.Action(unix.EPERM), bpf.ActionErrno | bpf.Action(unix.ENOSYS)
	var groups []bpf.SyscallGroup
	if p.Denied != "" {
		groups = append(groups, bpf.SyscallGroup{Action: denied, Names: []string{p.Denied}})
	}
	if p.Absent != "" {
		groups = append(groups, bpf.SyscallGroup{Action: absent, Names: []string{p.Absent}})
	}
	if p.Packets {
		groups = append(groups, bpf.SyscallGroup{
			Action: denied,
			NamesWithCondtions: []bpf.NameWithConditions{{Name: "socket", Conditions: []bpf.Condition{
				{Argument: 0, Operation: bpf.Equal, Value: unix.AF_PACKET},
			}}},
		})
	}
	if len(groups) == 0 {
		return nil
	}
	return load(sandbox.CheckRoot() != nil, groups...)
}

// load loads a filter for all threads of this process.
func load(noNewPrivs bool, groups ...bpf.SyscallGroup) error {
	return bpf.LoadFilter(bpf.Filter{NoNewPrivs: noNewPrivs, Flag: bpf.FilterFlagTSync, Policy: bpf.Policy{
		DefaultAction: bpf.ActionAllow, Syscalls: groups,
	}})
}

// want checks the status of a finding, and parts of its text and of what to do.
func (f Finding) want(t *testing.T, status Status, detail, fix string) {
	t.Helper()
	if f.Status != status || !strings.Contains(f.Detail, detail) || !strings.Contains(f.Fix, fix) {
		t.Errorf("got %s %q fix %q\nwant %s %q fix %q", f.Status, f.Detail, f.Fix, status, detail, fix)
	}
	if status != OK && status != Skipped && f.Fix == "" && !strings.Contains(f.Detail, "; ") {
		t.Errorf("%q does not say what to do", f.Detail)
	}
}

// found runs a check in this process.
func found(t *testing.T, c Check) Finding {
	t.Helper()
	var got Finding
	if err := run(t.Context(), []Check{c}, time.Second, func(r Result) { got = r.Finding }); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s %s: %s: %s; %s", c.Name, c.Subject, got.Status, got.Detail, got.Fix)
	return got
}

// lack skips the test because of a missing requirement. In CI it fails.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// ordinary returns the attributes of a child that runs as the unprivileged user of the tests, and the name of the user.
func ordinary(t *testing.T) (*syscall.SysProcAttr, string) {
	t.Helper()
	name := os.Getenv("BAKE_TEST_USER")
	if name == "" || os.Geteuid() != 0 {
		lack(t, "needs root, and BAKE_TEST_USER to name an unprivileged user with subordinate ids (.ci/test makes one)")
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	var c syscall.Credential
	if _, err := fmt.Sscan(u.Uid+" "+u.Gid, &c.Uid, &c.Gid); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &c}, name
}

// owned returns a directory that belongs to the user of attr.
func owned(t *testing.T, attr *syscall.SysProcAttr) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
		t.Fatal(err)
	}
	return dir
}
