package main

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/console"
)

// onTerminal runs bake on a pseudo-terminal and returns all output and the exit code. dialogue alternates a text to
// wait for and the line to type then.
func onTerminal(t *testing.T, c *cli, cmd *exec.Cmd, dialogue ...string) (string, int) {
	t.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Height: 40, Width: 132}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+c.cache, "BUILDX_BAKE_ENTITLEMENTS_FS=0", "TERM=xterm", "CI=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	shown := make(chan string)
	go func() {
		defer close(shown)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if n > 0 {
				shown <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	var all strings.Builder
	seen := 0
	end := untilDeadline(t)
	for {
		select {
		case text, more := <-shown:
			if !more {
				_ = cmd.Wait() // the caller checks the exit code
				return all.String(), cmd.ProcessState.ExitCode()
			}
			all.WriteString(text)
			for len(dialogue) > 1 && strings.Contains(all.String()[seen:], dialogue[0]) {
				seen = all.Len()
				if _, err := io.WriteString(master, dialogue[1]); err != nil {
					t.Fatal(err)
				}
				dialogue = dialogue[2:]
			}
		case <-end.Done():
			_ = cmd.Process.Kill()
			t.Fatalf("bake does not end; its output:\n%s", all.String())
		}
	}
}

// TestDebugShell shows that --debug-shell opens a shell in the root file system of a failed step or test, with its
// user, environment and mounts, and refuses where that is impossible.
func TestDebugShell(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "bake.hcl", `target "default" {
  contexts = { host = "/bin" }
  secret   = ["id=token,src=token"]
}
target "bare" { dockerfile-inline = "FROM scratch\nCOPY token /\nRUN [\"/token\"]" }
target "tested" {
  inherits = ["default"]
  target   = "base"
  test "fails" { command = "echo made >/made; exit 9" }
}
`)
	c.write(t, "token", "s3cret-value")
	c.write(t, "Dockerfile", `FROM scratch AS base
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base
RUN echo 'app:x:1000:1000::/:/bin/sh' >/etc/passwd && mkdir -m 777 /work
WORKDIR /work
USER app
ENV GREETING=hello
RUN --mount=type=secret,id=token,mode=0444 --mount=type=tmpfs,target=/scratch echo partial >half-done; exit 42
`)
	build := func(args ...string) *exec.Cmd {
		return bakeCommand(t, append([]string{"build", "--debug-shell"}, args...)...)
	}
	shown, code := onTerminal(t, c, build(), "exit continues the build",
		"echo $(id -u) $PWD $GREETING $(cat half-done) $(cat /run/secrets/token) $(stat -f -c %T /scratch)"+
			" | tr a-z A-Z\n",
		"1000 /WORK HELLO PARTIAL S3CRET-VALUE TMPFS", "test -t 0 && stty size | tr ' ' x; exit 7\n")
	if code != 1 || !strings.Contains(shown, "40x132") || !strings.Contains(shown, "exit code 42") {
		t.Errorf("exit code %d of\n%s", code, shown)
	}
	if shown, code = onTerminal(t, c, build("tested"), "exit continues the build",
		"cat /made | tr a-z A-Z; exit\n"); code != 1 || !strings.Contains(shown, "MADE") {
		t.Errorf("of a test: exit code %d of\n%s", code, shown)
	}
	if shown, code = onTerminal(t, c, build("bare")); code != 1 ||
		!strings.Contains(shown, "its root file system has no shell") {
		t.Errorf("without a shell: exit code %d of\n%s", code, shown)
	}
	if shown, code = onTerminal(t, c, build("--engine", "tcp://127.0.0.1:1")); code != 2 ||
		!strings.Contains(shown, "--engine embedded") {
		t.Errorf("on a daemon: exit code %d of\n%s", code, shown)
	}
	c.env["BUILDX_BAKE_ENTITLEMENTS_FS"] = "0"
	if _, stderr, code := c.run(t, "build", "--debug-shell"); code != 2 ||
		!strings.Contains(stderr, "--debug-shell needs a terminal") {
		t.Errorf("without a terminal: exit code %d of\n%s", code, stderr)
	}
}
