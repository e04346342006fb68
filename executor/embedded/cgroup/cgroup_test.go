package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// TestSweep checks that sweep removes the groups of processes that do not exist, with the groups in them, and no
// others.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	const gone = 1<<22 + 1 // higher than any process id
	kept := []string{fmt.Sprintf("bake-%d-1/bake-%d-2", os.Getpid(), os.Getpid()), "bake-x-1", "other"}
	for _, d := range append(kept, fmt.Sprintf("bake-%d-1/bake-%d-2", gone, gone), fmt.Sprintf("bake-%d-7", gone)) {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sweep(dir)
	for _, d := range kept {
		if _, err := os.Stat(filepath.Join(dir, d)); err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("bake-%d-*", gone))); err != nil || len(left) > 0 {
		t.Errorf("left: %q %v", left, err)
	}
}

// onFirst sends functions to the process's first thread. A goroutine that locks its thread while packages are
// initialized is on that thread.
var onFirst = lockFirst()

func lockFirst() chan func() {
	runtime.LockOSThread()
	return make(chan func())
}

func TestMain(m *testing.M) {
	code := make(chan int)
	go func() { code <- m.Run() }()
	for {
		select {
		case do := <-onFirst:
			do()
		case c := <-code:
			os.Exit(c)
		}
	}
}

// TestWorkerGroupOfFirstThread checks that a group is not created inside the worker group of the process's first
// thread. There it would share that group's limit, and prevent its removal.
func TestWorkerGroupOfFirstThread(t *testing.T) {
	g := &Groups{}
	var one sandbox.WorkerGroup
	var err error
	first := func(do func()) {
		done := make(chan struct{})
		onFirst <- func() { defer close(done); do() }
		<-done
	}
	first(func() { one, err = g.WorkerGroup(100) })
	if err != nil {
		skip(t, "needs writable cgroups: "+err.Error())
	}
	defer first(func() { _ = one.Close() })
	runtime.LockOSThread() // another thread
	defer runtime.UnlockOSThread()
	two, err := g.WorkerGroup(100)
	if err != nil {
		t.Fatal(err)
	}
	got, want := filepath.Dir(two.(*workerGroup).Path("pids")), filepath.Dir(one.(*workerGroup).Path("pids"))
	if got != want {
		t.Errorf("the second group is in %s, the first is in %s", got, want)
	}
	if err := two.Close(); err != nil {
		t.Error(err)
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
