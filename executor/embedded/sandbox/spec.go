// Package sandbox runs one process in its own root file system: with its own mount, pid, ipc, uts, network and cgroup
// namespaces, Docker's default capabilities and seccomp filter, and none of this process's descriptors or environment.
// If the machine does not allow one of these, Run returns an error; the sandbox is never weakened silently.
package sandbox

import (
	"io"
	"os"
	"path"
)

// Overlay is a stack of layers. If Upper is empty, it is read-only.
type Overlay struct {
	Lower       []string // absolute paths, top layer first
	Upper, Work string   // on the same file system; Work is empty, and serves one mount only
}

// Kind is the kind of a Mount.
type Kind int

// The kinds of Mount.
const (
	Bind         Kind = iota // the directory or file Source
	OverlayMount             // Overlay
	Tmpfs                    // a tmpfs of at most Size bytes; 0 is half of the machine's memory
	File                     // a file in memory with Content
)

// Mount is a mount in addition to the root. Dest is resolved inside the root; a missing mountpoint is created, and
// removed after the step. Mounts are attached in order, so that a later one hides an earlier one with the same Dest.
type Mount struct {
	Dest     string
	Kind     Kind
	Source   string
	Within   string // of Bind: a path below Source, whose links are resolved as if Source were the root; "" is Source
	Overlay  *Overlay
	Readonly bool
	Size     int64
	Mode     uint32 // of Tmpfs and File; 0 gives a Tmpfs the mode of the directory that it covers
	UID, GID uint32 // of Tmpfs and File
	Content  []byte
}

// Network is the network that a process can reach.
type Network int

// The kinds of Network. All except Host have their own network namespace.
const (
	Connected Network = iota // connected by Sandbox.Outside
	Isolated                 // its own loopback only
	Host                     // the machine's network
)

// Rlimit is a resource limit. Name is without RLIMIT_ and in lower case, such as "nofile".
type Rlimit struct {
	Name       string
	Soft, Hard uint64
}

// Limits holds the limits of a process and its descendants together. Zero means no limit.
type Limits struct {
	Pids                 int64 // processes and threads
	Memory, MemorySwap   int64 // bytes; MemorySwap is memory and swap together, -1 is no limit of swap
	CPUShares, CPUPeriod uint64
	CPUQuota             int64  // microseconds in each CPUPeriod
	CPUs, Mems           string // lists such as "0-3"
}

// required reports whether there are limits other than Pids. Pids alone is applied only where the machine allows it.
func (l Limits) required() bool { l.Pids = 0; return l != Limits{} }

// Spec describes one process to run.
type Spec struct {
	Root              Overlay
	Mounts            []Mount
	Args, Env         []string // Env is the complete environment
	Cwd               string   // created if it is missing, owned by the user
	UID, GID          uint32
	Groups            []uint32
	Hostname          string
	Network           Network
	Limits            Limits
	Hosts, ResolvConf []byte // content of /etc/hosts and /etc/resolv.conf
	Rlimits           []Rlimit
	ShmSize           int64 // size of /dev/shm in bytes; 0 is 64 MiB
	Insecure          bool  // all capabilities, no seccomp filter, no masked paths
	// MountpointDir is a directory on the file system of the layers that only this user can write. It holds the layers
	// of mountpoints that steps share. If it is empty, missing mountpoints are created in Upper and removed after the
	// step.
	MountpointDir  string
	Stdout, Stderr io.Writer `json:"-"`
	// Terminal, if not nil, replaces Stdout and Stderr, and is the standard input and the controlling terminal.
	Terminal *os.File `json:"-"`
}

// Result describes how the process ended.
type Result struct {
	ExitCode int  // 128 plus the signal's number if a signal ended the process
	Signal   int  // 0 if no signal did
	Exceeded bool // the kernel killed a process because the step exceeded Limits.Memory
}

// covers reports whether the step has a mount of its own at a path.
func (s *Spec) covers(p string) bool {
	for _, m := range s.Mounts {
		if path.Clean("/"+m.Dest) == p {
			return true
		}
	}
	return false
}
