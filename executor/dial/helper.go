package dial

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// git connects by itself for the protocols ssh and git, which have no proxy. It starts a program instead if the
// environment names one: this program, which recognises its task by the variables below.
const (
	helperAddr    = "BAKE_RELAY"
	helperToken   = "BAKE_RELAY_TOKEN"
	helperProgram = "BAKE_RELAY_PROGRAM"
)

// GitEnv returns the environment that makes git and its children connect through the guard. base is the environment
// without it. program is the path of this program, whose main function must call Helper.
func (r *Run) GitEnv(base []string, program string) []string {
	var env []string
	for _, pair := range base {
		name, _, _ := strings.Cut(pair, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "git_ssh_command":
			continue // the relay chooses the proxy; NO_PROXY would bypass the relay
		}
		env = append(env, pair)
	}
	proxy := "http://bake:" + r.token + "@" + r.relay.addr
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"} {
		env = append(env, name+"="+proxy)
	}
	return append(env, helperAddr+"="+r.relay.addr, helperToken+"="+r.token, helperProgram+"="+program,
		"GIT_SSH="+program, "GIT_SSH_VARIANT=ssh", "GIT_PROXY_COMMAND="+program)
}

// Helper runs the task that GitEnv gives to this program, and reports whether there was one. It must be called first in
// main, with the arguments of the process.
func Helper(getenv func(string) string, args []string) (exitCode int, isHelper bool) {
	if getenv(helperAddr) == "" || getenv(helperToken) == "" {
		return 0, false
	}
	var err error
	if len(args) == 2 && args[1] != "" && strings.Trim(args[1], "0123456789") == "" {
		err = tunnel(context.Background(), getenv, net.JoinHostPort(args[0], args[1]))
	} else {
		err = ssh(args)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bake: %v\n", err)
		return 1, true
	}
	return 0, true
}

// ssh runs the ssh program for git, with connections through the relay. ssh gives the name of the host to a shell, and
// older versions do not check it, so it must be one that means nothing to a shell.
func ssh(args []string) error {
	if len(args) < 2 {
		return errors.New("expected arguments of ssh")
	}
	host := args[len(args)-2]
	host = host[strings.LastIndexByte(host, '@')+1:]
	isPlain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:-", r)
	}
	if host == "" || host[0] == '-' || strings.ContainsFunc(host, func(r rune) bool { return !isPlain(r) }) {
		return fmt.Errorf("invalid host name %q", host)
	}
	program, err := exec.LookPath("ssh")
	if err != nil {
		return err
	}
	// The options come first, so they take precedence over the user's configuration. A shared connection that is open
	// already would not be checked.
	own := []string{"ssh", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-o",
		`ProxyCommand="$` + helperProgram + `" %h %p`}
	return fmt.Errorf("start ssh: %w", syscall.Exec(program, append(own, args...), os.Environ()))
}

// tunnel connects standard input and output to HOST:PORT through the relay.
func tunnel(ctx context.Context, getenv func(string) string, target string) error {
	c, err := (&net.Dialer{Timeout: proxyTimeout}).DialContext(ctx, "tcp", getenv(helperAddr))
	if err != nil {
		return err
	}
	defer c.Close()
	secret := base64.StdEncoding.EncodeToString([]byte("bake:" + getenv(helperToken)))
	_, err = fmt.Fprintf(c,
		"CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Basic %[2]s\r\n%[3]s: 1\r\n\r\n",
		target, secret, directHeader)
	if err != nil {
		return err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return errors.New(strings.TrimSpace(string(text)))
	}
	go func() {
		_, _ = io.Copy(c, os.Stdin)
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	_, err = io.Copy(os.Stdout, r)
	return err
}
