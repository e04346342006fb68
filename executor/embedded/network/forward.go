package network

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxDials is the number of TCP connections of a step that wait for the host's connection. The stack drops the SYN
	// of further ones, and the step's kernel sends it again.
	maxDials = 256
	// maxUDP is the number of UDP conversations of a step. Packets of further ones are dropped.
	maxUDP = 1024
	// idleUDP is how long a UDP conversation without packets is kept.
	idleUDP = 90 * time.Second
	// dialTimeout is how long the host tries to connect. Linux's default is about as long.
	dialTimeout = 130 * time.Second
)

// forward makes the stack forward all TCP connections and UDP packets to other hosts.
func (l *link) forward(s *stack.Stack) {
	t := tcp.NewForwarder(s, 0, maxDials, func(r *tcp.ForwarderRequest) { l.flows.Go(func() { l.forwardTCP(r) }) })
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, t.HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, l.udpHandler()).HandlePacket)
}

// udpHandler returns a handler that starts a conversation for each request. It reports requests over the limit as
// handled too: otherwise the stack would answer with an ICMP error, and the step would fail instead of sending the
// packet again.
func (l *link) udpHandler() udp.ForwarderHandler {
	var conversations atomic.Int64
	return func(r *udp.ForwarderRequest) (handled bool) {
		if conversations.Add(1) > maxUDP {
			conversations.Add(-1)
			return true
		}
		var wq waiter.Queue
		// The stack delivers the first packet when this handler returns, so the endpoint must exist by then.
		end, err := r.CreateEndpoint(&wq)
		if err != nil {
			conversations.Add(-1)
			return true
		}
		l.flows.Go(func() {
			defer conversations.Add(-1)
			l.forwardUDP(r, gonet.NewUDPConn(&wq, end))
		})
		return true
	}
}

// forwardTCP dials the step's destination. It completes the handshake with the step only after that has succeeded, and
// resets the connection otherwise.
func (l *link) forwardTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	out, err := l.net.dial(ctx, "tcp", address(id.LocalAddress, id.LocalPort))
	cancel()
	if err != nil {
		r.Complete(true)
		return
	}
	defer out.Close()
	var wq waiter.Queue
	end, terr := r.CreateEndpoint(&wq)
	r.Complete(terr != nil)
	if terr != nil {
		return
	}
	l.join(gonet.NewTCPConn(&wq, end), out)
}

// halfCloser is a connection of which one direction can be closed before the other.
type halfCloser interface{ CloseWrite() error }

// join copies bytes in both directions until both have ended or the link is closed. The end of one direction is passed
// on with CloseWrite, while the other continues (TestHalfClosed).
func (l *link) join(a, b net.Conn) {
	stop := context.AfterFunc(l.ctx, func() { _, _ = a.Close(), b.Close() })
	defer stop()
	both := make(chan struct{}, 2)
	one := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if h, ok := to.(halfCloser); err != nil || !ok || h.CloseWrite() != nil {
			_, _ = a.Close(), b.Close()
		}
		both <- struct{}{}
	}
	go one(a, b)
	one(b, a)
	<-both
	<-both
	_ = a.Close()
}

// forwardUDP copies the packets of one conversation in both directions, until there was none for idleUDP.
func (l *link) forwardUDP(r *udp.ForwarderRequest, in net.Conn) {
	defer in.Close()
	id := r.ID()
	out, err := l.net.dial(l.ctx, "udp", address(id.LocalAddress, id.LocalPort))
	if err != nil {
		return
	}
	defer out.Close()
	stop := context.AfterFunc(l.ctx, func() { _, _ = in.Close(), out.Close() })
	defer stop()
	back := make(chan struct{})
	go func() {
		defer close(back)
		packets(in, out, in, out)
		_, _ = in.Close(), out.Close()
	}()
	packets(out, in, in, out)
	_, _ = in.Close(), out.Close()
	<-back
}

// packets copies packets from one connection to another. Each packet renews the deadlines of both connections, so that
// a conversation with packets in one direction only is kept.
func packets(to, from net.Conn, both ...net.Conn) {
	p := make([]byte, 1<<16)
	for {
		for _, c := range both {
			if c.SetReadDeadline(time.Now().Add(idleUDP)) != nil {
				return
			}
		}
		n, err := from.Read(p)
		if err != nil {
			return
		}
		if _, err := to.Write(p[:n]); err != nil {
			return
		}
	}
}
