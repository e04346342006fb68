package sandbox

import (
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
)

// idleTime is how long a berth is kept on which nothing runs.
const idleTime = time.Second

// Standing is a group of processes for one step after another. It is closed by the thread that made it.
type Standing interface {
	// FD is a descriptor of the group into which processes are to be started, or -1 where what the thread starts is in it
	// by itself.
	FD() int
	io.Closer
}

// berth is a place at which steps run one after another: a thread of this process, to whose life theirs are tied, and the
// group that bounds how many processes each may have. While a step runs, the stage of the next one is started, so that
// it need not wait for the start of this program.
type berth struct {
	sandbox *Sandbox
	pids    int64       // that the group allows; 0 is any number
	calls   chan func() // what the thread is to do
	// Of the thread alone:
	group Standing // nil: there is none
	next  *process // a stage that was told nothing yet; nil: there is none
	ended bool
}

// berth gives a free berth, or a new one.
func (s *Sandbox) berth(pids int64) *berth {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		b := s.free[n-1]
		s.free = s.free[:n-1]
		return b
	}
	b := &berth{sandbox: s, pids: pids, calls: make(chan func())}
	go b.live()
	return b
}

// leave gives a berth back, from which its step is gone.
func (b *berth) leave() {
	b.sandbox.mu.Lock()
	defer b.sandbox.mu.Unlock()
	b.sandbox.free = append(b.sandbox.free, b)
}

// close takes a berth out of use, unless a step has it.
func (b *berth) close() bool {
	b.sandbox.mu.Lock()
	defer b.sandbox.mu.Unlock()
	i := slices.Index(b.sandbox.free, b)
	if i < 0 {
		return false
	}
	b.sandbox.free = slices.Delete(b.sandbox.free, i, i+1)
	return true
}

// live is the berth's thread, which ends with it.
func (b *berth) live() {
	runtime.LockOSThread() // for good
	if l := b.sandbox.Limiter; l != nil && b.pids > 0 {
		// A bound that nobody asked for is kept where it can be.
		b.group, _ = l.Standing(b.pids)
	}
	idle := b.sandbox.Idle
	if idle == 0 {
		idle = idleTime
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case call := <-b.calls:
			if call(); b.ended {
				return
			}
		case <-timer.C:
			if b.close() {
				b.end()
				return
			}
		}
		timer.Reset(idle)
	}
}

// Close ends the stages that are ready for next steps, so that none outlives this process for somebody else to wait for. Steps that
// run go on. Groups stay for a later process to remove: the kernel takes longer for that than for a step.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	free := s.free
	s.free = nil
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, b := range free {
		all.Go(func() { b.do(b.dismiss) })
	}
	all.Wait()
	return nil
}

// dismiss ends the berth and its stage.
func (b *berth) dismiss() {
	b.ended = true
	if b.next != nil {
		b.next.discard()
	}
}

// end gives up what the thread has.
func (b *berth) end() {
	b.dismiss()
	if b.group != nil {
		_ = b.group.Close() // one that stays is removed by a later process
	}
}

// do has the thread do something and waits for it.
func (b *berth) do(what func()) {
	done := make(chan struct{})
	b.calls <- func() {
		defer close(done)
		what()
	}
	<-done
}

// stage is an init stage that waits for its step; ready says that it was started before.
func (b *berth) stage(n Network) (p *process, ready bool, err error) {
	b.do(func() {
		if ready = b.next != nil && n != Host; ready {
			p, b.next = b.next, nil
			return
		}
		p, err = b.start(n, nil)
	})
	return p, ready, err
}

// begin is a stage that is started now.
func (b *berth) begin(n Network, terminal *os.File) (p *process, err error) {
	b.do(func() { p, err = b.start(n, terminal) })
	return p, err
}

// prepare has the stage of the next step started. It does not wait for that.
func (b *berth) prepare() {
	b.calls <- func() {
		if b.next == nil {
			b.next, _ = b.start(Isolated, nil) // what is wrong is told to the step that starts its own
		}
	}
}

func (b *berth) start(n Network, terminal *os.File) (*process, error) {
	group := -1
	if b.group != nil {
		group = b.group.FD()
	}
	return startProcess(b.sandbox.exe, n, group, terminal)
}
