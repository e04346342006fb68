package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
)

// lateDockerfile runs a step that waits, so that the build can be killed, and one that follows. The step leaves a
// directory of another user.
const lateDockerfile = `FROM REGISTRY/busybox:1
COPY --chmod=4755 busybox /suid/busybox
RUN mkdir -m 700 /d && touch /d/f && chown -R 7:7 /d
USER USER
RUN ["COMMAND", "sh", "-c", "echo step waits; exec COMMAND sleep 5"]
RUN ["true"]
`

// TestKillEndsSteps shows what is left after kill -9 of bake: no process, no image in the registry, no lock that others
// wait for. The owner can remove the cache. It holds for root and for an ordinary user, and for a step that gains
// privileges by executing a setuid program.
func TestKillEndsSteps(t *testing.T) {
	needSandbox(t)
	registry := serveBases(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		skip(t, "needs a static /bin/busybox")
	}
	for name, user := range map[string]*syscall.Credential{"root": nil, "user": testUser(t)} {
		for step, args := range map[string][2]string{
			"plain": {"0", "/bin/busybox"}, "setuid": {"1000", "/suid/busybox"},
		} {
			t.Run(name+" "+step, func(t *testing.T) {
				c := newCLI(t)
				c.user = user
				fill := strings.NewReplacer("REGISTRY", registry, "USER USER", "USER "+args[0], "COMMAND", args[1])
				c.write(t, "Dockerfile", fill.Replace(lateDockerfile))
				c.write(t, "busybox", string(busybox))
				if user != nil {
					giveTo(t, user, c.dir)
					giveTo(t, user, c.cache)
				}
				killAndLook(t, c, registry+"/killed/"+name+"-"+step+":1")
			})
		}
	}
}

// killAndLook kills a build that would push a tag, and checks what is left.
func killAndLook(t *testing.T, c *cli, tag string) {
	t.Helper()
	cmd := waitingBuild(t, c, " step waits", "image", "build", "--progress=plain", "-t", tag, "--push", ".")
	started := descendants(t, cmd.Process.Pid)
	if len(started) < 2 {
		t.Fatalf("processes of the build: %v", started)
	}
	killed := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for time.Since(killed) < 2*time.Second && len(alive(started)) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if left := alive(started); len(left) > 0 {
		t.Errorf("left after kill -9: %q", left)
	}
	// The step's key is not locked: another build runs it at once, and its lock is the next process's.
	again := waitingBuild(t, c, " step waits", "image", "build", "--progress=plain", "-t", "again", ".")
	if waited := time.Since(killed); waited > 30*time.Second {
		t.Errorf("the next build waited %v", waited)
	}
	if err := again.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = again.Wait()                                    // it was killed
	time.Sleep(time.Until(killed.Add(6 * time.Second))) // the step would have ended by now
	if _, err := crane.Digest(tag, crane.Insecure); err == nil {
		t.Error("the killed build has pushed its image")
	}
	remove := func() []byte {
		cmd := exec.Command("rm", "-rf", c.cache)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
		out, _ := cmd.CombinedOutput() // the directory itself belongs to the test
		return out
	}
	// An ordinary user cannot remove files of subordinate ids, but prune can, also what rm left of the cache. It keeps
	// what changed within the last second, as if it were in use.
	remove()
	time.Sleep(2 * time.Second)
	c.ok(t, "cache", "prune", "--all")
	out := remove()
	if left, _ := os.ReadDir(c.cache); len(left) > 0 {
		t.Errorf("the owner cannot remove the cache: %v\n%s", left, out)
	}
}

// waitingBuild starts a build and returns when it has printed a line that ends with a text.
func waitingBuild(t *testing.T, c *cli, text string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := bakeCommand(t, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+c.cache, "HOME="+c.cache, "BUILDX_BAKE_ENTITLEMENTS_FS=0")
	if c.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
	}
	output, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var seen strings.Builder
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		seen.WriteString(lines.Text() + "\n")
		if strings.HasSuffix(lines.Text(), text) {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd
		}
	}
	t.Fatalf("the build ended:\n%s", seen.String())
	return nil
}

// descendants returns the processes that a process started, directly or not, by number, with the time of their start.
func descendants(t *testing.T, pid int) map[int]string {
	t.Helper()
	parents, starts := map[int]int{}, map[int]string{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		number, _ := strconv.Atoi(strings.Split(name, "/")[2])
		if f := statFields(number); f != nil {
			parents[number], _ = strconv.Atoi(f[1])
			starts[number] = f[19]
		}
	}
	all := map[int]string{}
	for number := range parents {
		for up := number; up > 1; up = parents[up] {
			if up == pid {
				all[number] = starts[number]
			}
		}
	}
	return all
}

// statFields returns the fields of a process's stat file from the state on, or nil if the process has ended.
func statFields(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(raw), ") ")
	if err != nil || !ok || strings.HasPrefix(rest, "Z") {
		return nil
	}
	return strings.Fields(rest)
}

// alive returns the command lines of the processes that have not ended.
func alive(processes map[int]string) []string {
	var left []string
	for pid, start := range processes {
		if f := statFields(pid); f != nil && f[19] == start {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}
