package sandbox

import (
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// idleTime is how long an idle worker is kept.
const idleTime = time.Second

// WorkerGroup is the cgroup of a worker. The thread that created it must close it.
type WorkerGroup interface {
	// FD returns a descriptor of the group, in which the worker starts its processes. It is -1 if the processes that
	// the thread starts are in the group anyway (version 1).
	FD() int
	io.Closer
}

// worker is a locked OS thread and a cgroup that run steps one at a time.
//
// The problem: a step must not outlive this process, and its start must be fast. The kernel sends the parent-death
// signal when the thread that started a process ends, not when its whole process ends. The Go runtime ends threads and
// moves goroutines between them. In cgroups of version 1, a process starts in the group of the thread that
// starts it.
//
// The idea: each worker is one goroutine that is locked to its thread for the worker's whole life. It starts all
// processes of its steps. While a step runs, the worker already starts the init process of the next step, in the group
// that limits the number of processes. So a step waits neither for the start of this program nor for the kernel to move
// a process between groups.
//
// The invariants: only the worker's thread starts processes and touches group, next and stopped. The thread ends only
// when no step of the worker runs. A worker is in Sandbox.free, or one step has it, or it is stopping. Without the
// first two, a step dies at random together with an unrelated thread, or survives a killed build, or escapes its limit.
// TestKilledBuild of executor/embedded shows that a step dies with this process, TestLimits that its group holds, and
// TestClose that no init process is left.
//
// The cost: one thread, one group and one waiting init process for each step that runs at a time, until idleTime after
// the last step.
type worker struct {
	sandbox *Sandbox
	pids    int64       // limit of the group; 0 is no limit
	calls   chan func() // run by the thread, in order
	// Only the thread uses these:
	group   WorkerGroup // nil: there is no group
	next    *process    // the pre-started init process; nil: there is none
	stopped bool
}

// worker returns an idle worker, or a new one whose group allows the given number of processes.
func (s *Sandbox) worker(pids int64) *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
	if n := len(s.free); n > 0 {
		w := s.free[n-1]
		s.free = s.free[:n-1]
		return w
	}
	w := &worker{sandbox: s, pids: pids, calls: make(chan func())}
	go w.loop()
	return w
}

// release makes the worker available to other steps. Its step must have ended.
func (w *worker) release() {
	w.sandbox.mu.Lock()
	defer w.sandbox.mu.Unlock()
	w.sandbox.free = append(w.sandbox.free, w)
	w.sandbox.busy--
}

// retire removes an idle worker from the pool and reports whether it was idle.
func (w *worker) retire() bool {
	w.sandbox.mu.Lock()
	defer w.sandbox.mu.Unlock()
	i := slices.Index(w.sandbox.free, w)
	if i < 0 {
		return false
	}
	w.sandbox.free = slices.Delete(w.sandbox.free, i, i+1)
	return true
}

// loop runs on the worker's thread, which ends when loop returns.
func (w *worker) loop() {
	runtime.LockOSThread() // never unlocked
	if l := w.sandbox.Limiter; l != nil && w.pids > 0 {
		// The default limit is applied where the machine allows it; an error is not one of the step.
		w.group, _ = l.WorkerGroup(w.pids)
	}
	idle := w.sandbox.Idle
	if idle == 0 {
		idle = idleTime
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case call := <-w.calls:
			if call(); w.stopped {
				return
			}
		case <-timer.C:
			if w.retire() {
				w.stop()
				w.closeGroup()
				return
			}
		}
		timer.Reset(idle)
	}
}

// Close stops the idle workers and their pre-started init processes, and the guard unless steps run, so that this
// process leaves no children behind. Steps that run continue. The cgroups stay, and a later process removes them: the
// kernel needs longer to remove a group than to run a short step.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	free := s.free
	s.free = nil
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, w := range free {
		all.Go(func() { w.do(w.stop) })
	}
	all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard != nil && s.busy == 0 {
		s.guard.close()
		s.guard = nil
	}
	return nil
}

// guardProcess sends a process to the guard, and starts the guard if there is none. It closes p.pidfd.
func (s *Sandbox) guardProcess(p *process) (err error) {
	defer unix.Close(p.pidfd)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard == nil {
		if s.guard, err = startGuard(s.exe); err != nil {
			return err
		}
	}
	return s.guard.add(p.pidfd)
}

// stop ends the pre-started init process and makes loop return.
func (w *worker) stop() {
	w.stopped = true
	if w.next != nil {
		w.next.discard()
	}
}

// closeGroup removes the worker's group. A group that remains is removed by a later process.
func (w *worker) closeGroup() {
	if w.group != nil {
		_ = w.group.Close()
	}
}

// do runs a function on the worker's thread and waits for it.
func (w *worker) do(f func()) {
	done := make(chan struct{})
	w.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// initProcess returns an init process that waits for its step: the pre-started one if there is one and it has the right
// namespaces, otherwise a new one. prestarted reports which.
func (w *worker) initProcess(n Network) (p *process, prestarted bool, err error) {
	w.do(func() {
		if prestarted = w.next != nil && n != Host; prestarted {
			p, w.next = w.next, nil
			return
		}
		p, err = w.start(n, nil)
	})
	return p, prestarted, err
}

// newInitProcess starts an init process now.
func (w *worker) newInitProcess(n Network, terminal *os.File) (p *process, err error) {
	w.do(func() { p, err = w.start(n, terminal) })
	return p, err
}

// prestart starts the init process of the worker's next step in the background.
func (w *worker) prestart() {
	w.calls <- func() {
		if w.next == nil {
			// After an error the next step starts its own, and reports why that failed.
			w.next, _ = w.start(Isolated, nil)
		}
	}
}

// start must run on the worker's thread, because the process dies with the thread that started it.
func (w *worker) start(n Network, terminal *os.File) (*process, error) {
	group := -1
	if w.group != nil {
		group = w.group.FD()
	}
	p, err := startProcess(w.sandbox.exe, n, group, terminal)
	if err != nil {
		return nil, err
	}
	if err := w.sandbox.guardProcess(p); err != nil {
		p.discard()
		return nil, err
	}
	return p, nil
}
