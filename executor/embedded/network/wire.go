package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	stepDevice = "eth0" // in the step's namespace
	hubDevice  = "bake" // in the namespace of the wire
	// mtu is the size of the largest packet in bytes. It can be large, because no packet leaves the machine.
	mtu = 65520
)

// wire is this process's end of the veth pair: a packet socket in a network namespace that contains nothing else. The
// namespace exists as long as the socket does, and closing the socket removes both devices. A TUN device would need
// /dev/net/tun, which an unprivileged user may not be allowed to open.
type wire struct {
	file *os.File
	step unix.SockaddrLinklayer // destination of all packets: the step's device
}

// read reads one IP packet.
func (w *wire) read(p []byte) (int, error) { return w.file.Read(p) }

// write sends one IP packet.
func (w *wire) write(p []byte) error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), p, 0, &w.step)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// plug connects a network namespace to a new one with a veth pair. It uses a new thread that ends afterwards, because
// setns and unshare change the namespace of the thread; no other goroutine may run on it.
func plug(target *os.File) (*wire, error) {
	type result struct {
		wire *wire
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		w, err := plugHere(target)
		done <- result{w, err}
	}()
	r := <-done
	return r.wire, r.err
}

// plugHere does the work of plug and leaves the calling thread in another network namespace.
func plugHere(target *os.File) (*wire, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("create a network namespace: %w", err)
	}
	hub, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer hub.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = hubDevice, mtu
	err = hub.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs,
		PeerName:  stepDevice, PeerNamespace: netlink.NsFd(int(target.Fd())), PeerMTU: mtu,
	})
	if err != nil {
		return nil, fmt.Errorf("create a veth pair: %w", err)
	}
	ours, err := bringUp(hub, hubDevice)
	if err != nil {
		return nil, err
	}
	file, err := packetSocket(ours.Attrs().Index)
	if err != nil {
		return nil, err
	}
	w := &wire{file: file}
	if err := w.configure(target, ours.Attrs().Index); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return w, nil
}

// bringUp brings up a device without ARP, since there is only one neighbor.
func bringUp(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	_ = h.LinkSetIP6AddrGenMode(l, 1) // 1 is none; fails on a kernel without IPv6, which needs no setting
	if err := h.LinkSetARPOff(l); err != nil {
		return nil, fmt.Errorf("turn off ARP of %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("bring up %s: %w", name, err)
	}
	return l, nil
}

// ipProtocol returns the protocol number of IPv4 in network byte order, as packet sockets expect it.
func ipProtocol() uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], unix.ETH_P_IP)
	return binary.NativeEndian.Uint16(b[:])
}

// packetSocket opens a packet socket that receives the IPv4 packets of a device.
func packetSocket(device int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipProtocol(), Ifindex: device}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind a packet socket: %w", err), unix.Close(fd))
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // a smaller buffer works too
	// The queue of a device drops packets until the kernel has activated it, some time after the device is up: the
	// first answers of a step's UDP conversations would be lost (TestUDP). Packets go to the device directly instead. A
	// kernel that lacks the option only loses those.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	return os.NewFile(uintptr(fd), "step"), nil
}

// configure moves the calling thread to the step's namespace and sets the address and default route of the step's
// device. device is the index of this process's device.
func (w *wire) configure(target *os.File, device int) error {
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the step's network: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	l, err := bringUp(h, stepDevice)
	if err != nil {
		return err
	}
	own := stepAddress()
	addr := &net.IPNet{IP: own.Addr().AsSlice(), Mask: net.CIDRMask(own.Bits(), 32)}
	if err := h.AddrAdd(l, &netlink.Addr{IPNet: addr}); err != nil {
		return fmt.Errorf("set the step's address: %w", err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway().AsSlice()}); err != nil {
		return fmt.Errorf("set the step's route: %w", err)
	}
	mac := l.Attrs().HardwareAddr
	w.step = unix.SockaddrLinklayer{Protocol: ipProtocol(), Ifindex: device, Halen: uint8(len(mac))}
	copy(w.step.Addr[:], mac)
	return nil
}
