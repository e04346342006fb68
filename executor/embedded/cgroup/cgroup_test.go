package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// TestSweep: groups of processes that are gone go with the groups in them, and no others.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	const gone = 1<<22 + 1 // more than any process's number
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

// onFirst takes what the process's first thread is to do: a goroutine that locks its thread while packages are initialised is on that.
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

// TestStandingOfFirstThread: a group stands beside that of the process's first thread, not in it, where it would share its bound and
// keep it from being removed.
func TestStandingOfFirstThread(t *testing.T) {
	g := &Groups{}
	var one sandbox.Standing
	var err error
	first := func(do func()) {
		done := make(chan struct{})
		onFirst <- func() { defer close(done); do() }
		<-done
	}
	first(func() { one, err = g.Standing(100) })
	if err != nil {
		skip(t, "needs to make control groups: "+err.Error())
	}
	defer first(func() { _ = one.Close() })
	runtime.LockOSThread() // another one
	defer runtime.UnlockOSThread()
	two, err := g.Standing(100)
	if err != nil {
		t.Fatal(err)
	}
	if is, want := filepath.Dir(two.(*standing).Path("pids")), filepath.Dir(one.(*standing).Path("pids")); is != want {
		t.Errorf("the second group is in %s, the first is in %s", is, want)
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
