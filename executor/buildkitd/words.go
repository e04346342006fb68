package buildkitd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// lastWords gives what the other side said before it ended in place of the error of a write to it. Of a command only one read is told
// that: it is the one that finds the end, and waits for the command; to others the connection is closed.
type lastWords struct {
	net.Conn
	once sync.Once
	told chan struct{} // closed once why is set
	why  error
}

func newLastWords(conn net.Conn) *lastWords { return &lastWords{Conn: conn, told: make(chan struct{})} }

func (c *lastWords) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.told)
	})
}

// Read implements io.Reader.
func (c *lastWords) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrClosed) {
		<-c.told // by the read that found the end, or by Close
		return n, c.why
	}
	if err != nil {
		c.end(err)
	}
	return n, err
}

// Write implements io.Writer.
func (c *lastWords) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	var one [1]byte
	if _, why := c.Read(one[:]); why != nil && !errors.Is(why, io.EOF) { // at once: the connection is closed
		err = why
	}
	return n, err
}

// Close implements io.Closer.
func (c *lastWords) Close() error {
	err := c.Conn.Close()
	c.end(os.ErrClosed)
	return err
}
