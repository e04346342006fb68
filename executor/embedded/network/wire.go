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
	stepDevice = "eth0"
	hubDevice  = "bake"
	// mtu is the longest packet that the cable carries: as long as one can be, since it never leaves the machine.
	mtu = 65520
)

// wire is our end of a step's cable: a packet socket in a network namespace that has nothing else, and lives as long as
// the socket does. A TUN device would need a file of the host that ordinary users may not open.
type wire struct {
	file *os.File
	step unix.SockaddrLinklayer // the step's device, as the address of what is sent
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

// plug makes a cable between a network namespace and a new one. It works on a thread that ends with it, because a
// thread's namespace is its own.
func plug(target *os.File) (*wire, error) {
	type result struct {
		wire *wire
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread goes with the goroutine
		w, err := plugHere(target)
		done <- result{w, err}
	}()
	r := <-done
	return r.wire, r.err
}

func plugHere(target *os.File) (*wire, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	hub, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("talk to the kernel: %w", err)
	}
	defer hub.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = hubDevice, mtu
	err = hub.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: stepDevice, PeerNamespace: netlink.NsFd(int(target.Fd())), PeerMTU: mtu})
	if err != nil {
		return nil, fmt.Errorf("make a virtual cable: %w", err)
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

// bringUp starts a device that resolves no addresses of neighbours: there is only one.
func bringUp(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	_ = h.LinkSetIP6AddrGenMode(l, 1) // none; without IPv6 there is nothing to set
	if err := h.LinkSetARPOff(l); err != nil {
		return nil, fmt.Errorf("set up %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return l, nil
}

// ipProtocol is IPv4 in the byte order of networks, as packet sockets want it.
func ipProtocol() uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], unix.ETH_P_IP)
	return binary.NativeEndian.Uint16(b[:])
}

// packetSocket takes what comes in at a device. Only IPv4 is looked at.
func packetSocket(device int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipProtocol(), Ifindex: device}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind a packet socket: %w", err), unix.Close(fd))
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // more is only faster
	return os.NewFile(uintptr(fd), "step"), nil
}

// configure gives the step's end its address and route.
func (w *wire) configure(target *os.File, device int) error {
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the step's network: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("talk to the kernel: %w", err)
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
