package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	namePort = 53
	// maxQueries is the number of DNS queries and TCP connections of a step that are served at a time.
	maxQueries = 128
	// answerTimeout is how long one name server may take.
	answerTimeout = 5 * time.Second
	// maxServers is the number of the host's name servers that are used, as in the C library.
	maxServers = 3
)

// serveNames serves DNS at the gateway's address, over UDP and TCP. It forwards queries unchanged to the host's name
// servers, including those on the host's loopback, which the step cannot reach itself.
func (l *link) serveNames(s *stack.Stack) error {
	at := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(gateway().As4()), Port: namePort}
	packets, err := gonet.DialUDP(s, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	conns, err := gonet.ListenTCP(s, at, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	context.AfterFunc(l.ctx, func() { _, _ = packets.Close(), conns.Close() })
	slots := make(chan struct{}, maxQueries)
	l.flows.Go(func() { l.answerPackets(packets, slots) })
	l.flows.Go(func() { l.answerConns(conns, slots) })
	return nil
}

func (l *link) answerPackets(conn net.PacketConn, slots chan struct{}) {
	p := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(p)
		if err != nil {
			return
		}
		query := append([]byte(nil), p[:n]...)
		if !isQuery(query) {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			continue // the step repeats the query
		}
		l.flows.Go(func() {
			defer func() { <-slots }()
			if answer := l.forwardQuery(query); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		})
	}
}

func (l *link) answerConns(conns net.Listener, slots chan struct{}) {
	for {
		conn, err := conns.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		l.flows.Go(func() {
			defer func() { <-slots }()
			l.answerConn(conn)
		})
	}
}

// answerConn connects a step's TCP connection to the first name server that can be reached.
func (l *link) answerConn(in net.Conn) {
	defer in.Close()
	for _, server := range l.net.servers() {
		ctx, cancel := context.WithTimeout(l.ctx, answerTimeout)
		out, err := l.net.dialHost(ctx, "tcp", server)
		cancel()
		if err == nil {
			l.join(in, out)
			_ = out.Close()
			return
		}
	}
}

// isQuery reports whether a DNS message has a header, is not an answer, and has at least one question.
func isQuery(p []byte) bool {
	return len(p) > 12 && p[2]&0x80 == 0 && binary.BigEndian.Uint16(p[4:]) > 0
}

// forwardQuery sends a query to the host's name servers, one after another, and returns the first answer. It returns
// nil if none answers (TestNames).
func (l *link) forwardQuery(query []byte) []byte {
	for _, server := range l.net.servers() {
		if answer, err := l.exchange(server, query); err == nil {
			return answer
		}
	}
	return nil
}

// exchange sends a query to one name server over UDP and returns its answer.
func (l *link) exchange(server netip.AddrPort, query []byte) ([]byte, error) {
	conn, err := l.net.dialHost(l.ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	p := make([]byte, 1<<16)
	n, err := conn.Read(p)
	return p[:n], err
}

// servers returns the host's name servers. If none is listed, it is the one on the loopback, as in the C library.
func (n *Network) servers() []netip.AddrPort {
	name := n.ResolvConf
	if name == "" {
		name = "/etc/resolv.conf"
	}
	var list []netip.AddrPort
	if file, err := os.Open(name); err == nil {
		defer file.Close()
		lines := bufio.NewScanner(io.LimitReader(file, 1<<20))
		for lines.Scan() && len(list) < maxServers {
			fields := strings.Fields(lines.Text())
			if len(fields) < 2 || fields[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				list = append(list, netip.AddrPortFrom(a, namePort))
			}
		}
	}
	if len(list) == 0 {
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), namePort))
	}
	return list
}
