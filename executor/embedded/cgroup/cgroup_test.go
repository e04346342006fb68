package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
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

// TestStandingOfFirstThread: a group stands beside that of the process's first thread, not in it, where it would share its bound and
// keep it from being removed.
func TestStandingOfFirstThread(t *testing.T) {
	g := &Groups{}
	first := make(chan *standing)
	end := make(chan struct{})
	var failed error
	try := func() {
		runtime.LockOSThread() // for good, so that each comes to another thread
		if unix.Gettid() != os.Getpid() {
			first <- nil
			<-end
			return
		}
		s, err := g.Standing(100)
		if err != nil {
			failed = err
			first <- nil
			return
		}
		first <- s.(*standing)
		<-end
		_ = s.Close()
		first <- nil
	}
	var one *standing
	for range 100 {
		go try()
		if one = <-first; one != nil || failed != nil {
			break
		}
	}
	if one == nil {
		close(end)
		t.Skipf("needs to make control groups, and a goroutine on the first thread: %v", failed)
	}
	two, err := g.Standing(100)
	if err != nil {
		t.Fatal(err)
	}
	if above := filepath.Dir(two.(*standing).Path("pids")); above != filepath.Dir(one.Path("pids")) {
		t.Errorf("the second group is in %s, the first is %s", above, one.Path("pids"))
	}
	err = two.Close()
	close(end)
	<-first
	if err != nil {
		t.Error(err)
	}
}
