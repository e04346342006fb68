package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// packageTests are tests of a package that also run in a container, from a program at path there.
type packageTests struct {
	path, dir string
	names     []string
}

// inContainers are the attacks on the sandbox, and the faults of the engine and the cache: processes that are killed or
// cancelled at any point, several processes on one cache, damaged files, files that are not durable.
func inContainers() []packageTests {
	return []packageTests{
		{"bin/attacks", "../../executor/embedded/sandbox", []string{"Run", "Refused", "DevicesAreItsOwn", "Links",
			"HostileRoot", "Self", "User", "LeftOvers", "Within", "WithinRace"}},
		{"bin/enginefaults", "../../executor/embedded", []string{"KilledBuild", "TwoProcessesOnOneCache",
			"CancelledStep", "CacheMountFillingInterrupted"}},
		{"bin/cachefaults", "../../executor/cache", []string{"KilledAtEachPoint", "DamagedFiles", "DamagedImageList",
			"FailedFilling", "OpenDuringTheCheck", "SyncOfOthers", "OpenReapsTheDead",
			"OpenWhileOthersClose", "FreshMounts", "LockExcludesAndCancels"}},
	}
}

// compiledTests compiles the tests and the program of their steps to static programs. It returns their paths by those
// in the container.
func compiledTests(t *testing.T) map[string]string {
	t.Helper()
	all, dir := map[string]string{}, t.TempDir()
	compile := func(path string, args ...string) {
		all[path] = filepath.Join(dir, filepath.Base(path))
		cmd := exec.Command("go", append([]string{args[0], "-o", all[path]}, args[1:]...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, p := range inContainers() {
		compile(p.path, "test", "-c", p.dir)
	}
	compile("bin/step", "build", "../../executor/embedded/testdata/step")
	return all
}

// asBoth calls f for root and an ordinary user with the options of docker run that the README shows, a home directory
// there, and an executable /tmp.
func asBoth(t *testing.T, what string, f func(t *testing.T, user, home string, options []string)) {
	t.Helper()
	for user, home := range map[string]string{"0": "/root", "1000": "/home/u"} {
		t.Run(what+" of user "+user, func(t *testing.T) {
			f(t, user, home, slices.Concat([]string{"--network=none", "--user=" + user, "--env=HOME=" + home,
				"--tmpfs=/tmp:exec,mode=1777"}, readmeFlags(t)))
		})
	}
}

// testPrograms runs the tests of packages in a container, as root and as an ordinary user.
func testPrograms(t *testing.T, docker string) {
	t.Helper()
	for _, p := range inContainers() {
		asBoth(t, p.path, func(t *testing.T, _, _ string, options []string) {
			args := slices.Concat([]string{"-H", docker, "run", "--rm", "--env=BAKE_TEST_STEP=/bin/step"}, options,
				[]string{"bake", "/" + p.path, "-test.v", "-test.run=^Test(" + strings.Join(p.names, "|") + ")$"})
			out, err := exec.Command("docker", args...).CombinedOutput()
			if passed := strings.Count(string(out), "\n--- PASS: "); err != nil || passed != len(p.names) {
				t.Errorf("%v: %d of %d tests passed\n%s", err, passed, len(p.names), out)
			}
		})
	}
}

// faultyTargets are targets that end well, wait, or need more space than there is.
const faultyTargets = `
target "stage" {
  dockerfile-inline = <<EOT
FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-ec"]
RUN b=/bin/busybox; $b mkdir -m 700 /d; $b touch /d/f; $b chown -R 7:7 /d
EOT
}
target "first" {
  contexts = { stage = "target:stage" }
  dockerfile-inline = "FROM stage\nRUN echo first >/first"
}
target "waits" {
  contexts = { stage = "target:stage" }
  dockerfile-inline = "FROM stage\nRUN echo step waits; exec /bin/busybox sleep 1000"
}
target "copy" {
  contexts = { big = "/tmp/big" }
  dockerfile-inline = "FROM scratch\nCOPY --from=big / /"
}
target "run" {
  contexts = { stage = "target:stage" }
  dockerfile-inline = "FROM stage\nRUN exec /bin/busybox head -c 60000000 /dev/zero >/big"
}
`

// inShell is the start of a script of busybox in a container: build TARGET, and begin, which starts a build that waits.
const inShell = `
for a in ash cat grep head kill ls mkdir ps sleep timeout; do alias $a="/bin/busybox $a"; done
cd /faults
build() {
  timeout 100 bake build --allow=fs.read=/tmp/big --progress=none $1 2>/tmp/err
  echo "$1 exits $?"
  grep -E '^(error|built|unchanged)' /tmp/err
}
begin() {
  /bin/busybox rm -f /tmp/log
  bake build --progress=plain waits >/tmp/log 2>&1 &
  pid=$!
  n=0
  until [ -f /tmp/log ] && grep -q ' step waits$' /tmp/log; do
    n=$((n+1)); [ $n -lt 300 ] || { cat /tmp/log; exit 1; }
    sleep 0.1
  done
}
waiting() { ps | grep -c '[s]leep 1000'; }
`

// TestContainerFaults: in a Docker container, kill -9 of a build, the end of the container and a full disk leave a
// cache that works, as root and as an ordinary user, with the flags that the README shows.
func TestContainerFaults(t *testing.T) {
	needSandbox(t)
	docker := dockerEngine(t)
	importContainer(t, docker, nil)
	asBoth(t, "kill -9", func(t *testing.T, user, home string, options []string) {
		options = append(options, "--tmpfs="+home+":uid="+user)
		wantAll(t, runScript(t, docker, options, `
begin; echo "before: $(waiting)"
kill -9 $pid; sleep 2; echo "after: $(waiting)"
begin; echo "again: $(waiting)"
kill -9 $pid; sleep 2
build first
bake cache check
sleep 2
bake cache prune --all >/dev/null; echo "prune exits $?"
`), "before: 1\nafter: 0\n", "again: 1\n", "first exits 0\n", "nothing is damaged\n", "prune exits 0\n")
	})
	asBoth(t, "full disk", func(t *testing.T, user, home string, options []string) {
		options = append(options, "--tmpfs="+home+":size=20m,uid="+user)
		wantAll(t, runScript(t, docker, options, `
mkdir /tmp/big && head -c 32000000 /dev/zero >/tmp/big/f
for target in first copy run first; do build $target; done
bake cache check
`), "copy exits 7\nerror: target copy: ", "no space left on device (", "run exits 1\n",
			"the disk of the cache is full (", "first exits 0\n", "nothing is damaged\n")
	})
	asBoth(t, "end of the container", func(t *testing.T, _, home string, options []string) {
		killContainer(t, docker, home, options)
	})
}

// killContainer kills a container with a build, and checks the volume of its cache.
func killContainer(t *testing.T, docker, home string, options []string) {
	t.Helper()
	volume := strings.ReplaceAll(home, "/", "v")
	options = append(options, "--volume="+volume+":"+home)
	first := runScript(t, docker, options, "build first")
	args := slices.Concat([]string{"-H", docker, "run", "--detach", "--name=" + volume}, options,
		[]string{"bake", "bake", "build", "--progress=plain", "waits"})
	args = slices.Insert(args, 3, "--workdir=/faults")
	if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for n := 0; !strings.HasSuffix(dockerCLI(t, docker, "logs", volume), " step waits"); n++ {
		if n == 300 {
			t.Fatal(dockerCLI(t, docker, "logs", volume))
		}
		time.Sleep(100 * time.Millisecond)
	}
	dockerCLI(t, docker, "kill", volume)
	out := runScript(t, docker, options, "build first; bake cache check")
	wantAll(t, out, "first exits 0\n", "nothing is damaged\n")
	again, _, _ := strings.Cut(out, "nothing is damaged")
	if strings.Replace(first, "built", "unchanged", 1) != again || !strings.Contains(first, "built ") {
		t.Errorf("before the container ended:\n%s\nafter:\n%s", first, again)
	}
}

// runScript runs a script of inShell in a container and returns its output.
func runScript(t *testing.T, docker string, options []string, script string) string {
	t.Helper()
	args := slices.Concat([]string{"-H", docker, "run", "--rm", "--init=false"}, options,
		[]string{"bake", "/bin/busybox", "sh", "-c", inShell + script})
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	return string(out)
}

// wantAll wants all texts in the output.
func wantAll(t *testing.T, out string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}
