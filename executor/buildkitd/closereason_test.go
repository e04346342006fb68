package buildkitd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
)

// endedCommand is a connection to a command that has ended: the first read returns the reason, others os.ErrClosed.
type endedCommand struct {
	net.Conn
	once sync.Once
	hold chan struct{} // the first read waits for it, as for the command
}

var errReason = errors.New("the command said no")

func (c *endedCommand) Read([]byte) (_ int, err error) {
	err = os.ErrClosed
	c.once.Do(func() {
		<-c.hold
		err = errReason
	})
	return 0, err
}

func (c *endedCommand) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (c *endedCommand) Close() error              { return nil }

// TestCloseReason checks that every read and write after the end of a command returns the reason, in any order.
func TestCloseReason(t *testing.T) {
	command := &endedCommand{hold: make(chan struct{})}
	c := newReasonConn(command)
	errs := make(chan error, 4)
	for range 2 {
		go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := c.Write([]byte("x")); errs <- err }()
	}
	close(command.hold)
	for range 4 {
		if err := <-errs; !errors.Is(err, errReason) {
			t.Errorf("got %v", err)
		}
	}
	closed := newReasonConn(&endedCommand{})
	closed.Conn.(*endedCommand).once.Do(func() {})
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := closed.Read(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v after it was closed", err)
	}
}
