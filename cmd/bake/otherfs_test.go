package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// otherFS is a file system that cannot hold layers, or a machine on which no other one can.
type otherFS struct {
	name string
	kind string // as the note calls it
	// setup mounts the file system at {dir}/m; end unmounts what has a process of its own.
	setup, end string
	memory     bool // layers are unpacked in memory
}

func otherFileSystems() []otherFS {
	const overlay = "mount -t overlay none -o lowerdir={dir}/l,upperdir={dir}/u,workdir={dir}/w {dir}/m\n" +
		"chown --reference={dir}/l {dir}/m"
	// Every directory that is tried is on overlayfs.
	const everywhere = `mount -t tmpfs none /mnt
for d in /tmp /var/tmp {dir}; do
  mkdir -p /mnt/$d/u /mnt/$d/w
  chown --reference=$d /mnt/$d/u
  chmod --reference=$d /mnt/$d/u
  mount -t overlay none -o lowerdir=$d,upperdir=/mnt/$d/u,workdir=/mnt/$d/w $d
done`
	// The node on the machine may be root's.
	const fuse = "mknod -m 666 {dir}/fuse c 10 229; mount --bind {dir}/fuse /dev/fuse\n"
	const lossy = "--force-user={uid} --perms=0700 --chown-ignore --chgrp-ignore --chmod-ignore --xattr-none"
	return []otherFS{
		{"overlayfs", "overlayfs", overlay, "", false},
		{"FUSE", "FUSE", fuse + "{user} bindfs {noallow} {dir}/l {dir}/m", "umount {dir}/m", false},
		{"FUSE without attributes", "FUSE", "bindfs " + lossy + " {dir}/l {dir}/m", "umount {dir}/m", false},
		{"no other file system", "overlayfs", everywhere, "", true},
	}
}

const otherFSDockerfile = `FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-ec"]
RUN b=/bin/busybox; $b mkdir -p /gone /replaced/a/b; $b touch /gone/x /replaced/a/b/c; echo 1 >/h1; $b ln /h1 /h2; \
  $b mkfifo /fifo; $b ln -s /gone /link; $b chown 7:8 /h1; $b chmod 4751 /h1
RUN b=/bin/busybox; $b rm -r /gone /replaced/a /link; $b mkdir /replaced/a; $b touch /replaced/a/new
RUN b=/bin/busybox; ! $b test -e /gone; ! $b test -e /replaced/a/b; $b test -e /replaced/a/new; $b mkdir /locked; \
  $b touch /locked/f; $b chmod 0 /locked
RUN /bin/busybox echo LAST >/last
`

// otherFSScript builds, builds again, changes the last step, kills a build in its last step, and checks and prunes.
const otherFSScript = `
bake() { {user} {bake} "$@" 2>&1; }
cd /
bake image build --progress=plain -t x {dir}/src/1
bake image build --progress=plain -t x {dir}/src/1
bake image build --progress=plain -t x {dir}/src/2
{user} {bake} image build --progress=none -t x {dir}/src/3 >/dev/null 2>&1 & build=$!
tries=0
until {user} sh -c 'grep -qs sleeping "$BAKE_CACHE_DIR"/logs/*'; do sleep 0.1; tries=$((tries+1)); [ $tries -lt 300 ]; done
kill -9 $build
wait $build || true
bake image build --progress=plain -t x {dir}/src/1
bake cache check
bake doctor --offline || true
bake image rm x >/dev/null
sleep 2
bake cache prune --all
bake cache check
`

// TestCacheOnOtherFileSystems builds with a cache on file systems on which a step cannot run, as root and as an
// ordinary user. The images are those of an ordinary cache, what is cached is found, and each build says once why it is
// slower.
func TestCacheOnOtherFileSystems(t *testing.T) {
	needSandbox(t)
	if _, err := exec.LookPath("bindfs"); err != nil {
		skip(t, "needs bindfs")
	}
	for _, user := range []string{"root", "ordinary"} {
		t.Run(user, func(t *testing.T) {
			want := otherFS{}.run(t, user == "ordinary")
			digests := digestsBuilt(want)
			if len(digests) != 4 || digests[0] == digests[2] || strings.Contains(want, "note: the cache") {
				t.Fatalf("with an ordinary cache:\n%s", want)
			}
			for _, f := range otherFileSystems() {
				t.Run(f.name, func(t *testing.T) { f.check(t, f.run(t, user == "ordinary"), digests) })
			}
		})
	}
}

// digestsBuilt returns the digests of the images that a script built.
func digestsBuilt(out string) []string {
	return regexp.MustCompile(` x:latest sha256:[0-9a-f]{64}`).FindAllString(out, -1)
}

// check checks the output of the script.
func (f otherFS) check(t *testing.T, out string, digests []string) {
	t.Helper()
	if got := digestsBuilt(out); fmt.Sprint(got) != fmt.Sprint(digests) {
		t.Errorf("built %v, want %v", got, digests)
	}
	note := "note: the cache directory is on " + f.kind + ", which cannot hold layers"
	if n := strings.Count(out, note); n != 4 {
		t.Errorf("4 builds say %d times %q", n, note)
	}
	if inMemory := strings.Contains(out, "unpack layers in memory (at most "); inMemory != f.memory {
		t.Errorf("in memory: %v, want %v", inMemory, f.memory)
	}
	for text, want := range map[string]int{
		"up to date (5 steps cached)": 1, "5 steps: 1 ran, 4 cached": 1, "5 steps: 0 ran, 5 cached": 1, "ran, ": 3,
		"nothing is damaged": 2,
		"warning  overlay":   1, "failure  overlay": 0, "error:": 0,
	} {
		if n := strings.Count(out, text); n != want {
			t.Errorf("%q is there %d times, want %d", text, n, want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

// run runs the script with a cache on the file system, and returns its output. Nothing may be left behind.
func (f otherFS) run(t *testing.T, ordinary bool) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"l", "u", "w", "m", "home", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const sleeps = "sleeping; /bin/busybox sleep 300"
	for n, last := range map[string]string{"1": "one >/last", "2": "two >/last", "3": sleeps} {
		src := filepath.Join(dir, "src", n)
		writeFile(t, filepath.Join(src, "Dockerfile"), strings.ReplaceAll(otherFSDockerfile, "LAST >/last", last))
		if err := os.WriteFile(filepath.Join(src, "busybox"), fileOrSkip(t, "/bin/busybox"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	user, uid, noAllow := "", "0", ""
	if ordinary {
		u := testUser(t)
		giveTo(t, u, dir)
		uid, noAllow = fmt.Sprint(u.Uid), "--no-allow-other"
		user = fmt.Sprintf("setpriv --reuid %d --regid %d --clear-groups --", u.Uid, u.Gid)
	}
	script := strings.NewReplacer("{bake}", bakeCommand(t).Path, "{dir}", dir, "{user}", user, "{noallow}", noAllow,
		"{uid}", uid).Replace(f.setup + "\n" + otherFSScript + f.end)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", script)
	cmd.Env = append(os.Environ(), "HOME="+dir+"/home", "TMPDIR="+dir+"/tmp", "BAKE_CACHE_DIR="+dir+"/m/cache")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
	return string(out)
}
