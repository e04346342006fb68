package network

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic = 1 // the stack's id for the link
	// queue is the number of packets that wait for the link.
	queue = 256
)

// link is the connection of one step to the outside.
type link struct {
	net    *Network
	wire   *wire
	ctx    context.Context // done when the link is closed
	cancel context.CancelFunc
	done   chan struct{}  // closed when run and all flows have ended
	flows  sync.WaitGroup // the goroutines of connections
}

// Close ends the link and all its connections. It does not wait until the packet socket is closed, because the kernel
// does that only after an RCU grace period.
func (l *link) Close() error {
	l.cancel()
	// The deadline ends reads and writes that wait. They return without looking at the error.
	err := l.wire.file.SetDeadline(time.Unix(1, 0))
	<-l.done
	go func() { _ = l.wire.file.Close() }()
	return err
}

// run passes packets of the step to the stack until the link is closed. It creates the stack at the first packet.
func (l *link) run() {
	defer close(l.done)
	packet := make([]byte, 1<<16)
	n, err := l.wire.read(packet)
	if err != nil {
		return // closed before the step sent a packet
	}
	end, s, err := l.stack()
	if err != nil {
		return // packets get no answer, as if the network were down
	}
	var out sync.WaitGroup
	out.Go(func() { l.send(end) })
	for err == nil {
		deliver(end, packet[:n])
		n, err = l.wire.read(packet)
	}
	l.cancel()
	out.Wait()
	s.Destroy()
	l.flows.Wait()
}

// deliver passes a packet of the step to the stack. It drops ICMP packets to other hosts: the stack accepts packets to
// all addresses, so it would answer a ping to a host that does not exist.
func deliver(end *channel.Endpoint, packet []byte) {
	ip := header.IPv4(packet)
	if !ip.IsValid(len(packet)) {
		return
	}
	toGateway := ip.DestinationAddress() == tcpip.AddrFrom4(gateway().As4())
	if ip.TransportProtocol() == header.ICMPv4ProtocolNumber && !toGateway {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer p.DecRef()
	end.InjectInbound(ipv4.ProtocolNumber, p)
}

// send passes packets of the stack to the step until the link is closed.
func (l *link) send(end *channel.Endpoint) {
	for {
		p := end.ReadContext(l.ctx)
		if p == nil {
			return
		}
		view := p.ToView()
		_ = l.wire.write(view.AsSlice()) // a lost packet is sent again by the protocol above
		view.Release()
		p.DecRef()
	}
}

// stack creates the network stack. It accepts packets to every address (promiscuous mode), and sends from every address
// (spoofing), because it acts for all hosts.
func (l *link) stack() (*channel.Endpoint, *stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	sack := tcpip.TCPSACKEnabled(true)
	buffers := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 512 << 10, Max: 4 << 20}
	sendBuffers := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 512 << 10, Max: 4 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &buffers, &sendBuffers} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, nil, stackError(err)
		}
	}
	end := channel.New(queue, mtu, "")
	end.LinkEPCapabilities = stack.CapabilityRXChecksumOffload // the step's kernel sends no checksums on veth
	if err := s.CreateNIC(nic, end); err != nil {
		return nil, nil, stackError(err)
	}
	own := tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom4(gateway().As4()), PrefixLen: stepAddress().Bits(),
		},
	}
	if err := s.AddProtocolAddress(nic, own, stack.AddressProperties{}); err != nil {
		return nil, nil, stackError(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	if err := s.SetPromiscuousMode(nic, true); err != nil {
		return nil, nil, stackError(err)
	}
	if err := s.SetSpoofing(nic, true); err != nil {
		return nil, nil, stackError(err)
	}
	if err := l.serveNames(s); err != nil {
		return nil, nil, err
	}
	l.forward(s)
	return end, s, nil
}

// stackError converts an error of the network stack, which is not a Go error.
func stackError(err tcpip.Error) error { return errors.New(err.String()) }

func address(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(ip, port)
}
