package embedded

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

const (
	// maxKey bounds a file with a private key, in bytes.
	maxKey = 1 << 20
	// maxAgentConnections bounds the connections of one step to an agent.
	maxAgentConnections = 64
)

// sshMount mounts the socket of an agent that lists keys and signs, and does nothing else. It is empty if no target
// provides one and the step does not require it.
func (s *execRoot) sshMount(m *pb.Mount) ([]sandbox.Mount, error) {
	o := m.GetSSHOpt()
	id := o.GetID()
	if id == "" {
		id = "default"
	}
	source, ok := s.x.n.sshSource(id)
	if !ok {
		if o.GetOptional() {
			return nil, nil
		}
		return nil, s.x.n.stepError(fmt.Errorf("SSH agent or key %q not found", id),
			fmt.Sprintf("add it to the target of a project file: ssh = [%q], or [\"%s=KEYFILE\"]", id, id))
	}
	open, err := openAgent(source)
	if err != nil {
		return nil, s.x.n.stepError(fmt.Errorf("ssh %s: %w", id, err),
			"start the agent, or name an existing key file in the target's ssh")
	}
	draft, err := s.draft()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(draft.FS, "agent")
	l, err := listenAt(draft.FS, "agent")
	if err != nil {
		return nil, err
	}
	s.agents = append(s.agents, l)
	err = idmap.Explain(os.Lchown(socket, int(o.GetUid()), int(o.GetGid())), o.GetUid(), o.GetGid())
	if err = errors.Join(err, os.Chmod(socket, os.FileMode(o.GetMode()&0o777))); err != nil {
		return nil, err
	}
	go serveAgent(l, open)
	return []sandbox.Mount{{Dest: m.GetDest(), Kind: sandbox.Bind, Source: socket}}, nil
}

// listenAt listens on a socket in dir. The path of dir may exceed the length limit of socket names.
func listenAt(dir, name string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the directory is removed, and by then the name may belong to another socket
	return l, nil
}

// sshSource returns the ssh entry with this id from the targets of the step.
func (n *node) sshSource(id string) (config.SSH, bool) {
	for _, target := range n.step.Targets {
		for _, s := range n.b.graph.SSH[target] {
			if s.ID == id {
				return s, true
			}
		}
	}
	return config.SSH{}, false
}

// openAgent returns a function that connects to an agent: the user's, the one at the named socket, or a new one with
// the keys of the named files.
func openAgent(s config.SSH) (func() (agent.ExtendedAgent, io.Closer, error), error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if len(s.Paths) > 0 {
		info, err := os.Stat(s.Paths[0])
		if err != nil {
			return nil, err
		}
		if info.Mode()&os.ModeSocket == 0 {
			return keysOf(s.Paths)
		}
		socket = s.Paths[0]
	}
	if socket == "" {
		return nil, errors.New("no agent: SSH_AUTH_SOCK is not set")
	}
	return func() (agent.ExtendedAgent, io.Closer, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return nil, nil, err
		}
		return agent.NewClient(c), c, nil
	}, nil
}

// keysOf returns an agent with the keys of some files.
func keysOf(paths []string) (func() (agent.ExtendedAgent, io.Closer, error), error) {
	keys := agent.NewKeyring()
	for _, path := range paths {
		raw, err := readKey(path)
		if err != nil {
			return nil, err
		}
		key, err := ssh.ParseRawPrivateKey(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: filepath.Base(path)}); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	extended, ok := keys.(agent.ExtendedAgent)
	if !ok {
		return nil, errors.New("the agent cannot sign with flags")
	}
	return func() (agent.ExtendedAgent, io.Closer, error) { return extended, io.NopCloser(nil), nil }, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err == nil && len(raw) > maxKey {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxKey)
	}
	return raw, err
}

// serveAgent serves connections until l is closed.
func serveAgent(l net.Listener, open func() (agent.ExtendedAgent, io.Closer, error)) {
	slots := make(chan struct{}, maxAgentConnections)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer c.Close()
			a, closer, err := open()
			if err != nil {
				return // the step sees a closed connection
			}
			defer closer.Close()
			_ = agent.ServeAgent(signer{a}, c) // it ends with the connection, for whatever reason
		}()
	}
}

// closeAgents closes the step's sockets.
func (s *execRoot) closeAgents() {
	for _, l := range s.agents {
		_ = l.Close()
	}
}

// signer is an agent that lists its keys and signs.
type signer struct{ agent.ExtendedAgent }

var errOnlySigns = errors.New("this agent only lists keys and signs")

// Add is refused, like all other changes: a step uses keys, it does not change the agent.
func (signer) Add(agent.AddedKey) error { return errOnlySigns }

// Remove is refused.
func (signer) Remove(ssh.PublicKey) error { return errOnlySigns }

// RemoveAll is refused.
func (signer) RemoveAll() error { return errOnlySigns }

// Lock is refused.
func (signer) Lock([]byte) error { return errOnlySigns }

// Unlock is refused.
func (signer) Unlock([]byte) error { return errOnlySigns }

// Signers is refused: ServeAgent requests signatures.
func (signer) Signers() ([]ssh.Signer, error) { return nil, errOnlySigns }

// Extension is refused.
func (signer) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }
