package main

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestFullDisk builds on a cache whose disk is full: a COPY, a RUN and an image that do not fit are one clear error each,
// and the same cache goes on working.
func TestFullDisk(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if os.Geteuid() != 0 || err != nil {
		skip(t, "needs root, to mount a small disk, and a static busybox")
	}
	dir, small := t.TempDir(), t.TempDir()
	raw, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"busybox": string(raw), "big": strings.Repeat("0123456789abcdef", 2<<20), // 32 MiB
		"bake.hcl": `
target "first" { dockerfile-inline = "FROM scratch\nCOPY busybox /bin/sh\nRUN echo first >/first" }
target "copy" { dockerfile-inline = "FROM scratch\nCOPY big /big" }
target "run" { dockerfile-inline = "FROM scratch\nCOPY busybox /bin/sh\nRUN head -c 60000000 /dev/zero >/big" }
`,
		"script": `
set -u
mount -t tmpfs -o size=20m tmpfs "$BAKE_CACHE_DIR"
for target in first copy run first; do
  "$BAKE" build --progress=none $target 2>stderr
  echo "$target exits $?"
  grep '^error' stderr
done
"$BAKE" cache check
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe := bakeCommand(t).Path
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", filepath.Join(dir, "script"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+small, "BAKE="+exe)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(out)
	for _, want := range []string{
		"first exits 0\ncopy exits 7\nerror: target copy: dockerfile-inline of copy:2: [1/1] COPY big /big: write to " + small,
		"no space left on device (", " MB free of ", "; bake cache prune --all frees 2 MB, or set BAKE_CACHE_DIR to another disk\nrun exits 1\n",
		"exit code 1; the disk of the cache is full (", "\nfirst exits 0\nnothing is damaged\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// TestPruneFullDisk frees a cache whose disk has neither a block nor a name left for the folder that each process makes: what
// the error of a build says to do has to work.
func TestPruneFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root, to mount a small disk")
	}
	dir, small := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"big":      strings.Repeat("0123456789abcdef", 64<<10), // 1 MiB
		"bake.hcl": `target "default" { dockerfile-inline = "FROM scratch\nCOPY big /big" }`,
		"script": `
set -u
mount -t tmpfs -o size=20m,nr_inodes=4000 tmpfs "$BAKE_CACHE_DIR"
"$BAKE" build --progress=none || exit
mkdir "$BAKE_CACHE_DIR/others"
head -c 30000000 /dev/zero >"$BAKE_CACHE_DIR/others/big" 2>/dev/null
sleep 2 # what was used in the last second counts as in use
n=0; while (: >"$BAKE_CACHE_DIR/others/$n") 2>/dev/null; do n=$((n+1)); done
"$BAKE" cache du >du
echo "du exits $?"
"$BAKE" cache prune --all
echo "prune exits $?"
rm -r "$BAKE_CACHE_DIR/others"
"$BAKE" build --progress=none
echo "build exits $?"
"$BAKE" cache check
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe := bakeCommand(t).Path
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", filepath.Join(dir, "script"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+small, "BAKE="+exe)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"du exits 0\n", "freed 1.", "prune exits 0\n", "build exits 0\n", "nothing is damaged\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

// TestFetchFullDisk: a repository and an archive that do not fit on the disk of the cache are faults of the disk.
func TestFetchFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root, to mount a small disk")
	}
	site := newRemoteSite(t)
	noise := make([]byte, 8<<20)
	_, _ = rand.Read(noise)
	site.commit(t, "main", map[string]string{"big": string(noise)})
	site.files["big.tar"] = noise
	dir, small := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(dir, "bake.hcl"), "target \"add\" { dockerfile-inline = \"FROM scratch\\nADD "+site.url+"/repo.git#main /\" }\n"+
		"target \"git\" { context = \""+site.url+"/repo.git#main\" }\n"+"target \"tar\" { context = \""+site.url+"/files/big.tar\" }\n")
	writeFile(t, filepath.Join(dir, "script"), `
mount -t tmpfs -o size=4m tmpfs "$BAKE_CACHE_DIR" || exit
for target in add git tar; do
  "$BAKE" build --progress=none $target 2>stderr
  echo "$target exits $?"
  grep '^error' stderr
done
`)
	exe := bakeCommand(t).Path
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", filepath.Join(dir, "script"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+small, "BAKE="+exe)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, target := range []string{"add", "git", "tar"} {
		if !strings.Contains(string(out), target+" exits 7\n") {
			t.Errorf("%s does not exit with 7:\n%s", target, out)
		}
	}
	if n := strings.Count(string(out), "set BAKE_CACHE_DIR to another disk"); n != 3 {
		t.Errorf("%d errors say what to do, not 3:\n%s", n, out)
	}
}
