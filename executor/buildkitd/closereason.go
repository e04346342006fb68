package buildkitd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// reasonConn is a connection whose errors have the reason why the peer closed it. Without it, a client that writes
// first sees "broken pipe", and the reason, such as a TLS alert or the error output of ssh, is lost. So a failed write
// reads once and returns the error of the read. When a command exits, only one Read returns the reason. Concurrent
// reads get os.ErrClosed; they wait and return the same reason. TestCloseReason shows it.
type reasonConn struct {
	net.Conn
	once sync.Once
	done chan struct{} // closed once why is set
	why  error
}

func newReasonConn(conn net.Conn) *reasonConn {
	return &reasonConn{Conn: conn, done: make(chan struct{})}
}

// end sets the reason; the first one stays.
func (c *reasonConn) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.done)
	})
}

// Read implements io.Reader.
func (c *reasonConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrClosed) {
		<-c.done // closed by the read that found the end, or by Close
		return n, c.why
	}
	if err != nil {
		c.end(err)
	}
	return n, err
}

// Write implements io.Writer.
func (c *reasonConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	var one [1]byte
	if _, why := c.Read(one[:]); why != nil && !errors.Is(why, io.EOF) { // returns at once: the connection is closed
		err = why
	}
	return n, err
}

// Close implements io.Closer.
func (c *reasonConn) Close() error {
	err := c.Conn.Close()
	c.end(os.ErrClosed)
	return err
}
