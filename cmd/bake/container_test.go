package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// containerRun is a build in a container.
type containerRun struct {
	name  string
	flags []string // of docker run; "FLAGS" stands for those of the README
	// want is in the output: the digest of the image as root builds it, if empty.
	want []string
}

// containerRuns returns the containers of TestContainers. Each has a cache of its own.
func containerRuns() []containerRun {
	const volume, home = "-v=/root/.cache/bake", "--tmpfs=/home/u:uid=1000,mode=700"
	user := []string{"--user=1000", "--env=HOME=/home/u", home}
	other := []string{"--user=2000", "--env=HOME=/home/u", "--tmpfs=/home/u:uid=2000,mode=700"}
	admin := []string{"--cap-add=SYS_ADMIN", volume}
	const remedy = "in a container, add --security-opt seccomp=unconfined --security-opt apparmor=unconfined " +
		"--security-opt systempaths=unconfined, or --privileged"
	return []containerRun{
		{"root with the flags", []string{"FLAGS", volume}, nil},
		{"root on a read-only root", []string{"FLAGS", volume, "--read-only"}, nil},
		{"root without new privileges", []string{"FLAGS", volume, "--security-opt=no-new-privileges"}, nil},
		{"root with a cache in memory", []string{"FLAGS", "--tmpfs=/root/.cache/bake"}, nil},
		{"root with no flags", []string{volume}, []string{"root lacks the capabilities NET_ADMIN, SYS_ADMIN", remedy}},
		{"root with hidden system paths", []string{"--security-opt=seccomp=unconfined", volume},
			[]string{"parts of /proc are hidden", remedy}},
		{"root with no capabilities", []string{"FLAGS", volume, "--cap-drop=ALL"},
			[]string{"root needs the capabilities SETUID, SETGID and SETFCAP", remedy}},
		{"root with SYS_ADMIN", admin, []string{"parts of /proc are hidden", remedy}},
		{"root with SYS_ADMIN and system paths",
			slices.Concat(admin, []string{"--security-opt=systempaths=unconfined"}),
			[]string{"a seccomp profile refuses pivot_root", remedy}},
		{"root with SYS_ADMIN and the flags", slices.Concat(admin, []string{"FLAGS"}), nil},
		{"root with SYS_ADMIN and NET_ADMIN", slices.Concat(admin, []string{"--cap-add=NET_ADMIN",
			"--security-opt=seccomp=unconfined"}), nil},
		// Without a volume the cache is on overlayfs, and layers are unpacked in memory.
		{"root with the cache in the container", []string{"FLAGS"}, nil},
		{"root with SYS_ADMIN and the cache in the container", []string{"--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN",
			"--security-opt=seccomp=unconfined"}, nil},
		{"root with no flags and the cache in the container", nil,
			[]string{"root lacks the capabilities NET_ADMIN, SYS_ADMIN", remedy}},
		{"user with the cache in the container", []string{"FLAGS", "--user=1000", "--env=HOME=/tmp"}, nil},
		{"user with the flags", slices.Concat(user, []string{"FLAGS"}), nil},
		{"user with no flags", user, []string{"create a user namespace: operation not permitted", remedy}},
		{"user without subordinate ids", slices.Concat(other, []string{"FLAGS"}),
			[]string{"chown: /x/z: Invalid argument", "this user namespace has no other; add entries for this user"}},
	}
}

const inContainer = `FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-ec"]
RUN b=/bin/busybox; $b mkdir /x; $b touch /x/y
RUN b=/bin/busybox; $b rm -r /x; $b mkdir /x; $b touch /x/z; $b chown 7:7 /x/z; ! $b test -e /x/y
`

// TestContainers shows that builds work in a Docker container with the flags that the README shows, as root and as an
// ordinary user, and that the message names the cause and the flags where they do not.
func TestContainers(t *testing.T) {
	needSandbox(t)
	docker := dockerEngine(t)
	importContainer(t, docker, compiledTests(t))
	testPrograms(t, docker)
	digest := ""
	for _, r := range containerRuns() {
		t.Run(r.name, func(t *testing.T) {
			r.checkDoctor(t, docker)
			out, err := r.run(t, docker, "image", "build", "--progress=plain", "-t=x", "/src")
			if r.want == nil {
				_, built, _ := strings.Cut(out, "built x:latest ")
				if err != nil || built == "" || digest != "" && built != digest {
					t.Fatalf("%v: want %s, got\n%s", err, digest, out)
				}
				digest = built
				return
			}
			for _, want := range r.want {
				if err == nil || !strings.Contains(out, want) {
					t.Errorf("%v: want %q, got\n%s", err, want, out)
				}
			}
		})
	}
}

// importContainer imports containerRoot as the image "bake".
func importContainer(t *testing.T, docker string, programs map[string]string) {
	t.Helper()
	image := exec.Command("docker", "-H", docker, "import", "-", "bake")
	image.Stdin = containerRoot(t, programs)
	if out, err := image.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// run runs bake in the container and returns its output.
func (r containerRun) run(t *testing.T, docker string, command ...string) (string, error) {
	t.Helper()
	args := []string{"-H", docker, "run", "--rm", "--network=none"}
	for _, f := range r.flags {
		if f == "FLAGS" {
			args = append(args, readmeFlags(t)...)
		} else {
			args = append(args, f)
		}
	}
	out, err := exec.Command("docker", append(append(args, "bake", "bake"), command...)...).CombinedOutput()
	return string(out), err
}

// checkDoctor shows that bake doctor agrees with a build in the same container: where the build works it finds no
// failure, otherwise the same cause and remedy. What only some images need is a warning.
func (r containerRun) checkDoctor(t *testing.T, docker string) {
	t.Helper()
	out, err := r.run(t, docker, "doctor", "--offline")
	want, works := r.want, r.want == nil
	if r.name == "user without subordinate ids" {
		want, works = []string{"user 2000 has fewer than 65536 ids in /etc/subuid and /etc/subgid"}, true
	}
	if works != (err == nil) {
		t.Errorf("bake doctor: %v; a build works: %v\n%s", err, works, out)
	}
	for _, text := range want {
		if !strings.Contains(out, text) {
			t.Errorf("bake doctor does not say %q:\n%s", text, out)
		}
	}
}

// readmeFlags returns the security options of docker run that the README shows.
func readmeFlags(t *testing.T) []string {
	t.Helper()
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(raw), "docker run ")
	args := strings.Fields(strings.ReplaceAll(command, "\\\n", " "))
	var flags []string
	for i := 0; i+1 < len(args) && args[i] == "--security-opt"; i += 2 {
		flags = append(flags, args[i], args[i+1])
	}
	if len(flags) == 0 {
		t.Fatal("the README shows no docker run --security-opt")
	}
	return flags
}

// containerRoot returns the root file system of a container with bake, busybox and newuidmap, as a tar archive. In a
// container, newuidmap has file capabilities: a setuid one is refused, because root lacks SYS_ADMIN there.
// programs are more programs, by their paths in the container.
func containerRoot(t *testing.T, programs map[string]string) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(h tar.Header, content []byte) {
		h.Size, h.Format = int64(len(content)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	text := map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n",
		"etc/group":  "root:x:0:\nu:x:1000:\n",
		"etc/subuid": "u:100000:65536\n", "etc/subgid": "u:100000:65536\n", "src/Dockerfile": inContainer,
		"faults/bake.hcl": faultyTargets,
	}
	for name, content := range text {
		add(tar.Header{Name: name, Mode: 0o644}, []byte(content))
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(tar.Header{Name: "home/u/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 1000}, nil)
	for name, from := range map[string]string{"bin/bake": bakeCommand(t).Path, "bin/busybox": "/bin/busybox",
		"src/busybox": "/bin/busybox", "faults/busybox": "/bin/busybox"} {
		add(tar.Header{Name: name, Mode: 0o755}, fileOrSkip(t, from))
	}
	for name, from := range programs {
		add(tar.Header{Name: name, Mode: 0o755}, fileOrSkip(t, from))
	}
	libraries := map[string]bool{}
	for name, capability := range map[string]byte{"newuidmap": 7, "newgidmap": 6} { // CAP_SETUID, CAP_SETGID
		path, err := exec.LookPath(name)
		if err != nil {
			skip(t, "needs %s (Debian: uidmap)", name)
		}
		// struct vfs_cap_data, revision 2, effective
		set := []byte{1, 0, 0, 2, 1 << capability, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		add(tar.Header{Name: "usr/bin/" + name, Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": string(set)}}, fileOrSkip(t, path))
		addLibraries(t, path, libraries)
	}
	for path := range libraries {
		add(tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755}, fileOrSkip(t, path))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}

func fileOrSkip(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		skip(t, "needs %s: %v", path, err)
	}
	return raw
}

// addLibraries adds the paths of the loader and the libraries of a program.
func addLibraries(t *testing.T, program string, paths map[string]bool) {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", program, err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(word) {
			paths[word] = true
		}
	}
}

// TestStaticBinary shows that the program, built as the README says, needs no file of its machine: it starts in a root
// file system with nothing else in it and in one with busybox, and builds an image there.
func TestStaticBinary(t *testing.T) {
	needSandbox(t)
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(raw), "CGO_ENABLED=0 go build -o bin/ ./cmd/bake")
	if i < 0 {
		t.Fatal("the README does not build the program with CGO_ENABLED=0")
	}
	path := bakeCommand(t).Path
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program needs a dynamic loader")
		}
	}
	for _, with := range []string{"", "/bin/busybox"} {
		root := t.TempDir()
		files := map[string]string{"bake": path, "src/file": "../../README.md"}
		if with != "" {
			files["bin/sh"] = with
		}
		for name, from := range files {
			to := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, fileOrSkip(t, from), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(root, "src/Dockerfile"), "FROM scratch\nCOPY file /\n")
		if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"/bake", "version"}, {"/bake", "image", "build", "-t", "x", "/src"}} {
			if with != "" {
				args = []string{"/bin/sh", "-c", strings.Join(args, " ")}
			}
			const inRoot = `mount -t proc proc "$0/proc" && exec chroot "$0" "$@"`
			cmd := exec.Command("unshare", slices.Concat([]string{"--mount", "sh", "-c", inRoot, root}, args)...)
			cmd.Env = []string{"BAKE_CACHE_DIR=/cache", "PATH=" + os.Getenv("PATH")}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%q in a root with %q: %v\n%s", args, with, err, out)
			}
		}
	}
}
