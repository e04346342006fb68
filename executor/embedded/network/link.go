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
	nic = 1
	// queue is how many packets may wait for the cable.
	queue = 256
)

// link is one step's connection to the outside.
type link struct {
	net    *Network
	wire   *wire
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing of the link runs any more
	flows  sync.WaitGroup
}

// Close ends the link and all connections over it. What it takes to take the cable down is not waited for: the kernel lets
// all processors pass before it lets go of a packet socket.
func (l *link) Close() error {
	l.cancel()
	// Ends reads and writes. What is closed is told from what is broken by the context alone.
	err := l.wire.file.SetDeadline(time.Unix(1, 0))
	<-l.done
	go func() { _ = l.wire.file.Close() }()
	return err
}

// run carries packets until the link is closed.
func (l *link) run() {
	defer close(l.done)
	packet := make([]byte, 1<<16)
	n, err := l.wire.read(packet)
	if err != nil {
		return // the step sent nothing
	}
	end, s, err := l.stack()
	if err != nil {
		return // packets get no answer, as on a network that is down
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

// deliver gives the stack a packet of the step. Echo requests to other hosts are dropped: the stack, which speaks for
// all of them, would answer for a host that may not be there.
func deliver(end *channel.Endpoint, packet []byte) {
	if ip := header.IPv4(packet); !ip.IsValid(len(packet)) ||
		ip.TransportProtocol() == header.ICMPv4ProtocolNumber && ip.DestinationAddress() != tcpip.AddrFrom4(gateway().As4()) {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer p.DecRef()
	end.InjectInbound(ipv4.ProtocolNumber, p)
}

// send carries the stack's packets to the step.
func (l *link) send(end *channel.Endpoint) {
	for {
		p := end.ReadContext(l.ctx)
		if p == nil {
			return
		}
		view := p.ToView()
		_ = l.wire.write(view.AsSlice()) // what is lost is sent again, as on any network
		view.Release()
		p.DecRef()
	}
}

// stack makes the network stack: it takes every address for its own, and forwards what is sent there.
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
	end.LinkEPCapabilities = stack.CapabilityRXChecksumOffload // the cable is memory: the step's kernel leaves sums out
	if err := s.CreateNIC(nic, end); err != nil {
		return nil, nil, stackError(err)
	}
	own := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(gateway().As4()), PrefixLen: stepAddress().Bits()},
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

// stackError is an error of the network stack, which has a type of its own for them.
func stackError(err tcpip.Error) error { return errors.New(err.String()) }

func address(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(ip, port)
}
