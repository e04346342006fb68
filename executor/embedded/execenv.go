package embedded

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// defaultPath is the PATH of a step whose image does not set one.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultHostname is BuildKit's, because the output of a step may depend on it.
const defaultHostname = "buildkitsandbox"

// environment returns the environment of the process: the step's variables, proxies in upper and lower case, secrets,
// and defaults for PATH and HOME. Nothing comes from the environment of this process.
func environment(meta *pb.Meta, secrets []string, home string) []string {
	env := append([]string(nil), meta.GetEnv()...)
	env = append(env, proxies(meta.GetProxyEnv())...)
	env = append(env, secrets...)
	env = withDefault(env, "PATH", defaultPath)
	return withDefault(env, "HOME", home)
}

// withDefault adds a variable unless env has it.
func withDefault(env []string, name, value string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return env
		}
	}
	return append(env, name+"="+value)
}

// proxies returns the proxy settings as variables, in upper and lower case.
func proxies(p *pb.ProxyEnv) []string {
	var env []string
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.GetHttpProxy()}, {"HTTPS_PROXY", p.GetHttpsProxy()}, {"FTP_PROXY", p.GetFtpProxy()},
		{"NO_PROXY", p.GetNoProxy()}, {"ALL_PROXY", p.GetAllProxy()},
	} {
		if v.value != "" {
			env = append(env, v.name+"="+v.value, strings.ToLower(v.name)+"="+v.value)
		}
	}
	return env
}

// hostname returns the host name of a step.
func hostname(meta *pb.Meta) string {
	if h := meta.GetHostname(); h != "" {
		return h
	}
	return defaultHostname
}

// hostsFile returns the content of the step's /etc/hosts.
func hostsFile(meta *pb.Meta) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname(meta))
	for _, h := range meta.GetExtraHosts() {
		fmt.Fprintf(&b, "%s\t%s\n", h.GetIP(), h.GetHost())
	}
	return b.Bytes()
}

// maxPids bounds the processes and threads of a step.
const maxPids = 4096

// limitsOf returns the resource limits of a step.
func limitsOf(r *pb.LinuxResources) sandbox.Limits {
	return sandbox.Limits{
		Pids: maxPids, Memory: r.GetMemory(), MemorySwap: r.GetMemorySwap(), CPUShares: r.GetCpuShares(),
		CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(), CPUs: r.GetCpusetCpus(), Mems: r.GetCpusetMems(),
	}
}

// networkOf returns the network of an exec op.
func networkOf(exec *pb.ExecOp) sandbox.Network {
	switch exec.GetNetwork() {
	case pb.NetMode_HOST:
		return sandbox.Host
	case pb.NetMode_NONE:
		return sandbox.Isolated
	}
	return sandbox.Connected
}

// resolvConf returns the content of the step's /etc/resolv.conf: the host's, except that a step with its own network
// uses the name server of that network.
func resolvConf(mode pb.NetMode) []byte {
	var b bytes.Buffer
	if mode == pb.NetMode_UNSET {
		fmt.Fprintln(&b, "nameserver", network.Nameserver())
	}
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		host = nil // the C library then uses the loopback address
	}
	lines := bufio.NewScanner(bytes.NewReader(host))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err != nil || mode == pb.NetMode_UNSET || a.IsLoopback() &&
				mode != pb.NetMode_HOST {
				continue
			}
		}
		if len(fields) > 1 && !strings.HasPrefix(fields[0], "#") && !strings.HasPrefix(fields[0], ";") {
			fmt.Fprintln(&b, strings.Join(fields, " "))
		}
	}
	return b.Bytes()
}
