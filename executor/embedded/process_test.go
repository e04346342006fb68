package embedded

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/planner"
)

// orderVariable holds an order in JSON: the test program builds it in place of its tests.
const orderVariable = "BAKE_TEST_ORDER"

// order is what another process shall build.
type order struct {
	Dir, Cache string
	Targets    []*config.Target
	Tend       string // what to do to the cache in place of building, see tend
}

// outcome is what it answers, as the last line of its output. Before that it shows the output of its steps.
type outcome struct {
	Ran    []string // names of the exec steps that ran
	Images []string // digests
	Err    string
}

// obey builds an order in this process and returns its exit code.
func obey(text string) int {
	var o order
	err := json.Unmarshal([]byte(text), &o)
	var out outcome
	switch {
	case err != nil:
	case o.Tend != "":
		err = tend(context.Background(), o.Cache, o.Tend)
	default:
		out, err = o.build(context.Background())
	}
	if err != nil {
		out.Err = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return 1
	}
	return 0
}

func (o order) build(ctx context.Context) (out outcome, err error) {
	store, err := cache.Open(o.Cache)
	if err != nil {
		return out, err
	}
	defer store.Close()
	p := &config.Project{Dir: o.Dir, Targets: map[string]*config.Target{}}
	for _, t := range o.Targets {
		p.Targets[t.Name] = t
		p.Requested = append(p.Requested, t.Name)
	}
	g, err := planner.Plan(ctx, p, planner.Options{})
	if err != nil {
		return out, err
	}
	report, err := New(store, nil, Options{}).Run(ctx, g, executor.Options{
		Dir: o.Dir, Jobs: 4, Events: func(e executor.Event) { _, _ = os.Stdout.Write(e.Log) },
	})
	for i, r := range report.Steps {
		if r.Status == executor.StatusRan && g.Steps[i].Op.GetExec() != nil {
			out.Ran = append(out.Ran, g.Steps[i].Name)
		}
	}
	for _, i := range report.Images {
		out.Images = append(out.Images, i.Digest.String())
	}
	return out, err
}

// child is another process that builds.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	output *bufio.Reader
}

// start starts a process that builds the site's targets on the site's cache.
func (s *site) start(t *testing.T) *child {
	t.Helper()
	return s.command(t, order{Dir: s.dir, Cache: s.store.Dir(), Targets: s.targets})
}

// startTending starts a process that does something else to the cache.
func (s *site) startTending(t *testing.T, how string) *child {
	t.Helper()
	return s.command(t, order{Cache: s.store.Dir(), Tend: how})
}

func (s *site) command(t *testing.T, o order) *child {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), orderVariable+"="+string(raw))
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.output = bufio.NewReader(pipe)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the process ends with this thread, and workers end other threads
		started <- c.cmd.Start()
		<-t.Context().Done()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return c
}

// end waits for the process and returns its answer.
func (c *child) end() outcome {
	c.t.Helper()
	text, err := io.ReadAll(c.output)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatalf("%v\n%s", err, text)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var out outcome
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &out); err != nil {
		c.t.Fatalf("%v: %q", err, text)
	}
	if out.Err != "" {
		c.t.Fatal(out.Err)
	}
	return out
}

func TestTwoProcessesOnOneCache(t *testing.T) {
	s := newBox(t, map[string]string{"lib/x": "1"})
	s.targets = nil
	for _, name := range []string{"a", "b", "c", "d"} {
		s.write(map[string]string{name + ".Dockerfile": tools + fmt.Sprintf(`RUN ["/step", "random", "/base"]
COPY lib /lib
RUN ["/step", "random", "/%s"]
`, name)})
		one := target(name)
		one.Outputs, one.Tags = nil, []string{"example/" + name + ":1"}
		s.targets = append(s.targets, one)
	}
	first, second := s.start(t), s.start(t)
	got := []outcome{first.end(), second.end()}
	if n := len(got[0].Ran) + len(got[1].Ran); n != 5 {
		t.Errorf("five commands ran %d times: %q and %q", n, got[0].Ran, got[1].Ran)
	}
	if len(got[0].Images) != 4 || fmt.Sprint(got[0].Images) != fmt.Sprint(got[1].Images) {
		t.Errorf("images %q and %q", got[0].Images, got[1].Images)
	}
	if again := s.start(t).end(); len(again.Ran) > 0 || fmt.Sprint(again.Images) != fmt.Sprint(got[0].Images) {
		t.Errorf("a third process ran %q and made %q", again.Ran, again.Images)
	}
}

func TestKilledBuild(t *testing.T) {
	s := newGate(t)
	c := s.start(t)
	line, err := c.output.ReadString('\n')
	if err != nil || line != "waiting\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	step := running(t, c.cmd.Process.Pid)
	if len(step) == 0 {
		t.Fatal("the step's process was not found")
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // killed
	for _, pid := range step {
		gone(t, pid)
	}
	if left, err := filepath.Glob(filepath.Join(s.store.Dir(), "tmp", "*", "*")); err != nil || len(left) == 0 {
		t.Errorf("the killed process had nothing in the making: %q, %v", left, err)
	}
	s.write(map[string]string{"mode": "go"})
	if out := s.start(t).end(); len(out.Ran) != 1 {
		t.Errorf("ran %q", out.Ran)
	}
	s.clean() // the next process reaped what the dead one left
	s.must()
}

// running lists the children of a process.
func running(t *testing.T, parent int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var list []int
	for _, name := range stats {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		var pid, ppid int
		var state string
		text := string(raw)
		if _, err := fmt.Sscan(text, &pid); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(text[strings.LastIndexByte(text, ')')+1:], &state, &ppid); err == nil && ppid == parent {
			list = append(list, pid)
		}
	}
	return list
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(raw), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %d outlived the build", pid)
}
