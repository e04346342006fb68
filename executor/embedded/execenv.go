package embedded

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// defaultPath is the PATH of a step whose image sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultHostname is BuildKit's, since what a step writes may depend on it.
const defaultHostname = "buildkitsandbox"

// environment is what the process sees: the step's own variables, proxies in both cases, secrets, and defaults for
// PATH and HOME. Nothing of this process's environment is in it.
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

// proxies are the proxy settings as variables, in both cases.
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

// hostname of a step.
func hostname(meta *pb.Meta) string {
	if h := meta.GetHostname(); h != "" {
		return h
	}
	return defaultHostname
}

// hostsFile is the content of the step's /etc/hosts.
func hostsFile(meta *pb.Meta) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname(meta))
	for _, h := range meta.GetExtraHosts() {
		fmt.Fprintf(&b, "%s\t%s\n", h.GetIP(), h.GetHost())
	}
	return b.Bytes()
}

// resolvConf is the content of the step's /etc/resolv.conf: the host's, without name servers on the host's loopback,
// which a step cannot reach.
func resolvConf() []byte {
	var b bytes.Buffer
	file, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil // a host without one: steps get an empty file
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err != nil || a.IsLoopback() {
				continue
			}
		}
		if len(fields) > 1 && !strings.HasPrefix(fields[0], "#") && !strings.HasPrefix(fields[0], ";") {
			fmt.Fprintln(&b, strings.Join(fields, " "))
		}
	}
	return b.Bytes()
}
