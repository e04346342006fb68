package main

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// onSmallDisk runs a shell script in a directory with some files. $BAKE is the program, and its cache is on a tmpfs
// with the mount options. It returns the output and the directory of the cache.
func onSmallDisk(t *testing.T, options, script string, files map[string]string) (said, cache string) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root, to mount a small disk")
	}
	dir, cache := t.TempDir(), filepath.Join(t.TempDir(), "[cache]")
	if err := os.Mkdir(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe := bakeCommand(t).Path
	mount := "mount -t tmpfs -o " + options + ` tmpfs "$BAKE_CACHE_DIR" || exit` + "\n"
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-uc", mount+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+cache, "BAKE="+exe)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out), cache
}

// TestFullDisk shows that a COPY and a RUN that do not fit on the disk of the cache give one clear error each, and that
// the same cache still works then.
func TestFullDisk(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		skip(t, "needs a static busybox")
	}
	raw, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	text, small := onSmallDisk(t, "size=20m", `
for target in first copy run first; do
  "$BAKE" build --progress=none $target 2>stderr
  echo "$target exits $?"
  grep '^error' stderr
done
"$BAKE" cache check
`, map[string]string{
		"busybox": string(raw), "big": strings.Repeat("0123456789abcdef", 2<<20), // 32 MiB
		"bake.hcl": `
target "first" { dockerfile-inline = "FROM scratch\nCOPY busybox /bin/sh\nRUN echo first >/first" }
target "copy" { dockerfile-inline = "FROM scratch\nCOPY big /big" }
target "run" { dockerfile-inline = "FROM scratch\nCOPY busybox /bin/sh\nRUN head -c 60000000 /dev/zero >/big" }
`,
	})
	for _, want := range []string{
		"first exits 0\ncopy exits 7\nerror: target copy: dockerfile-inline of copy:2: [1/1] COPY big /big: write to " +
			small,
		"no space left on device (", " MB free of ",
		"; bake cache prune --all frees 2 MB, or set BAKE_CACHE_DIR to another disk\nrun exits 1\n",
		"exit code 1; the disk of the cache is full (", "\nfirst exits 0\nnothing is damaged\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// TestPruneFullDisk shows that "cache prune", which the error of a build suggests, works on a full disk: neither a
// block nor an inode is left for the directory that each process creates.
func TestPruneFullDisk(t *testing.T) {
	out, _ := onSmallDisk(t, "size=20m,nr_inodes=4000", `
"$BAKE" build --progress=none || exit
mkdir "$BAKE_CACHE_DIR/others"
head -c 30000000 /dev/zero >"$BAKE_CACHE_DIR/others/big" 2>/dev/null
sleep 2 # entries used within the last second count as in use
n=0; while (: >"$BAKE_CACHE_DIR/others/$n") 2>/dev/null; do n=$((n+1)); done
"$BAKE" cache du >du
echo "du exits $?"
"$BAKE" cache prune --all
echo "prune exits $?"
rm -r "$BAKE_CACHE_DIR/others"
"$BAKE" build --progress=none
echo "build exits $?"
"$BAKE" cache check
`, map[string]string{
		"big":      strings.Repeat("0123456789abcdef", 64<<10), // 1 MiB
		"bake.hcl": `target "default" { dockerfile-inline = "FROM scratch\nCOPY big /big" }`,
	})
	for _, want := range []string{"du exits 0\n", "freed 1.", "prune exits 0\n", "build exits 0\n",
		"nothing is damaged\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

// TestFetchFullDisk shows that a repository and an archive that do not fit on the disk of the cache are system errors.
func TestFetchFullDisk(t *testing.T) {
	site := newRemoteSite(t)
	noise := make([]byte, 8<<20)
	_, _ = rand.Read(noise)
	site.commit(t, "main", map[string]string{"big": string(noise)})
	site.files["big.tar"] = noise
	out, _ := onSmallDisk(t, "size=4m", `
for target in add git tar; do
  "$BAKE" build --progress=none $target 2>stderr
  echo "$target exits $?"
  grep '^error' stderr
done
`, map[string]string{"bake.hcl": "target \"add\" { dockerfile-inline = \"FROM scratch\\nADD " + site.url +
		"/repo.git#main /\" }\n" +
		"target \"git\" { context = \"" + site.url + "/repo.git#main\" }\n" + "target \"tar\" { context = \"" +
		site.url + "/files/big.tar\" }\n"})
	for _, target := range []string{"add", "git", "tar"} {
		if !strings.Contains(out, target+" exits 7\n") {
			t.Errorf("%s does not exit with 7:\n%s", target, out)
		}
	}
	if n := strings.Count(out, "set BAKE_CACHE_DIR to another disk"); n != 3 {
		t.Errorf("%d errors say what to do, not 3:\n%s", n, out)
	}
}

// TestLoadFullDisk shows that an archive that does not fit on the disk of the cache is an error of the disk, and that a
// disk without inodes is not said to lack space.
func TestLoadFullDisk(t *testing.T) {
	const load = `
SMALL="$BAKE_CACHE_DIR"
cat >bake.hcl <<'EOF'
target "default" {
  dockerfile-inline = "FROM scratch\nCOPY big /big"
  output = ["type=oci,dest=x.tar"]
}
EOF
BAKE_CACHE_DIR=other "$BAKE" build --progress=none || exit
for how in 'image load -i x.tar' 'image load' 'build --progress=none'; do
  "$BAKE" $how <x.tar 2>stderr
  echo "$how exits $?"
  grep '^error' stderr
done
export BAKE_CACHE_DIR=other
"$BAKE" image load -i no.tar 2>stderr
echo "a missing file exits $?"
head -c 9000 x.tar | "$BAKE" image load 2>stderr
echo "half of a file exits $?"
export BAKE_CACHE_DIR="$SMALL"
"$BAKE" cache check
ls "$BAKE_CACHE_DIR/tmp" | wc -l
`
	noise := make([]byte, 3<<20)
	_, _ = rand.Read(noise)
	files := map[string]string{"big": string(noise)}
	for options, want := range map[string]string{
		"size=2m":               "no space left on device (",
		"size=50m,nr_inodes=36": "no inodes left on device (",
	} {
		out, _ := onSmallDisk(t, options, load, files)
		for _, how := range []string{"image load -i x.tar", "image load", "build --progress=none"} {
			if !strings.Contains(out, how+" exits 7\n") {
				t.Errorf("%s: %s does not exit with 7:\n%s", options, how, out)
			}
		}
		if n := strings.Count(out, want); n != 3 {
			t.Errorf("%s: %d errors say %q, want 3:\n%s", options, n, want, out)
		}
		for _, want := range []string{"a missing file exits 2\n", "half of a file exits 2\n",
			"nothing is damaged\n0\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in\n%s", options, want, out)
			}
		}
	}
}

// TestFullStdout shows that output which cannot be written never ends with exit code 0.
func TestFullStdout(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "f", "f")
	c.write(t, "bake.hcl", `target "default" {
  dockerfile-inline = "FROM scratch\nCOPY f /"
  tags = ["example.test/x:1"]
}`)
	c.ok(t, "build", "--progress=none", "--set=default.output=type=oci,dest=x.tar")
	c.ok(t, "build", "--progress=none")
	c.ok(t, "image", "tag", "example.test/x:1", "example.test/y:1")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	// A link, as /dev/stdout is one: a file that takes its place would break other programs.
	link := filepath.Join(c.dir, "stdout")
	if err := os.Symlink("/proc/self/fd/1", link); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"build --print", "build --list=targets", "build --call=outline", "plan", "plan --json", "explain default",
		"graph",
		"image ls", "image ls -q", "image history example.test/x:1", "image inspect example.test/x:1",
		"image load -i x.tar", "image rm example.test/y:1", "cache du", "cache check", "cache prune --keep-size=1TB",
		"builds ls", "builds ls -q", "builds show", "report -o -", "version", "--help",
		"build --progress=none --set=default.output=type=tar,dest=-", "build --progress=none --metadata-file=stdout",
		"build --progress=none --trace=stdout", "report -o stdout",
	} {
		cmd := bakeCommand(t, strings.Fields(args)...)
		cmd.Dir, cmd.Stdout = c.dir, full
		cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+c.cache)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if _ = cmd.Run(); cmd.ProcessState.ExitCode() != exitSystem ||
			!strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%s: exit %d\n%s", args, cmd.ProcessState.ExitCode(), stderr.String())
		}
		if target, err := os.Readlink(link); err != nil || target != "/proc/self/fd/1" {
			t.Fatalf("%s replaced the link: %q, %v", args, target, err)
		}
	}
}
