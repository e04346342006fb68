// Package sandbox runs one process in a root of its own: its own mount, pid, ipc, uts, network and cgroup namespaces,
// Docker's default capabilities and system call filter, and nothing of this process's descriptors or environment. What the
// machine cannot give is an error; the wall is never made lower to get through.
package sandbox

import (
	"io"
	"os"
)

// Overlay is a stack of directories. An empty Upper means that nothing can be written.
type Overlay struct {
	Lower       []string // top first; absolute paths
	Upper, Work string   // on one file system
}

// Kind says what is mounted.
type Kind int

// The kinds of Mount.
const (
	Bind         Kind = iota // Source, a directory or a file
	OverlayMount             // Overlay
	Tmpfs                    // memory, of Size bytes at most; 0 is half of the machine's
	File                     // a file in memory with Content
)

// Mount is one mount besides the root. Dest is resolved inside the root; what is missing of it is made and taken away
// again after the step. The mounts are made in order, so that of two with one Dest the last shows.
type Mount struct {
	Dest     string
	Kind     Kind
	Source   string
	Overlay  *Overlay
	Readonly bool
	Size     int64
	Mode     uint32 // of Tmpfs and File
	UID, GID uint32 // of Tmpfs and File
	Content  []byte
}

// Network says what a process can reach.
type Network int

// The kinds of Network. All but Host are a network namespace of the step's own.
const (
	Connected Network = iota // what Sandbox.Outside connects it to
	Isolated                 // its own loopback only
	Host                     // all that the machine can
)

// Rlimit is one limit by its name without RLIMIT_, in lower case, such as "nofile".
type Rlimit struct {
	Name       string
	Soft, Hard uint64
}

// Limits is what a process and all that it starts may take of the machine. A zero is no limit.
type Limits struct {
	Pids                 int64 // processes and threads
	Memory, MemorySwap   int64 // bytes; MemorySwap counts both, -1 is as much swap as there is
	CPUShares, CPUPeriod uint64
	CPUQuota             int64  // microseconds a CPUPeriod
	CPUs, Mems           string // such as "0-3"
}

// asked says whether there are limits besides that of processes, which is kept only where it can be.
func (l Limits) asked() bool { l.Pids = 0; return l != Limits{} }

// Spec is one process to run.
type Spec struct {
	Root              Overlay
	Mounts            []Mount
	Args, Env         []string // Env is all that the process sees
	Cwd               string   // made when missing, owned by the user
	UID, GID          uint32
	Groups            []uint32
	Hostname          string
	Network           Network
	Limits            Limits
	Hosts, ResolvConf []byte // content of /etc/hosts and /etc/resolv.conf
	Rlimits           []Rlimit
	ShmSize           int64 // of /dev/shm in bytes; 0 is 64 MiB
	Insecure          bool  // all capabilities, no filter, nothing masked
	// Points is a directory on the file system of the layers, of this user alone. It keeps the mount points that roots
	// lack, as a lowest layer that many steps share, so that no step's own layer shows them. Empty: they are made in Upper
	// and removed again.
	Points         string
	Stdout, Stderr io.Writer `json:"-"`
	// Terminal, when not nil, takes the place of both and is the standard input and the controlling terminal too.
	Terminal *os.File `json:"-"`
}

// Result says how the process ended.
type Result struct {
	ExitCode int  // 128 and the signal's number when a signal ended it
	Signal   int  // 0 when none did
	Exceeded bool // a process was killed because all of them took more memory than Limits allows
}
