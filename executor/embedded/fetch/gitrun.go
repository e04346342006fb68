package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// maxOutput is the number of bytes of git's output that are kept.
const maxOutput = 1 << 20

// Public returns the URL of a repository without the user and password of an http URL. Keys, entries and checkouts use
// it, so that none of them contains credentials.
func Public(remote string) string {
	scheme, user, rest := credentials(remote)
	if user == "" {
		return remote
	}
	return scheme + rest
}

// credentials splits an http URL into its scheme, the user and password before the @, and the rest.
func credentials(remote string) (scheme, user, rest string) {
	name, rest, ok := strings.Cut(remote, "://")
	if !ok || name != "http" && name != "https" {
		return "", "", remote
	}
	host, path, slash := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		user, host = host[:i], host[i+1:]
	}
	if slash {
		host += "/" + path
	}
	return name + "://", user, host
}

// run runs git for a repository, without the user's configuration and without prompts. args must name the repository by
// its Public URL, since every user of the machine may read them.
func (f *Fetcher) run(ctx context.Context, dir, remote string, args ...string) ([]byte, error) {
	base := []string{
		"-c", "protocol.allow=never", "-c", "protocol.https.allow=always", "-c", "protocol.http.allow=always",
		"-c", "protocol.ssh.allow=always", "-c", "protocol.git.allow=always", "-c", "core.hooksPath=/dev/null",
		"-c", "core.autocrlf=false", "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main",
		"-c", "gc.auto=0", "-c", "core.logAllRefUpdates=false",
		"-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30", "-c", "transfer.fsckObjects=false",
	}
	cmd := exec.CommandContext(ctx, "git", append(base, args...)...)
	cmd.Dir = dir
	cmd.Env = f.gitEnv(remote)
	refused := func() error { return nil }
	if f.Guard != nil {
		guarded, err := f.Guard.Start()
		if err != nil {
			return nil, err
		}
		defer guarded.Close()
		cmd.Env, refused = guarded.GitEnv(cmd.Env, f.Program), guarded.Err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a process that left the group, such as a credential cache, may keep the pipes open
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The parent-death signal is sent when the thread that started git ends. A locked thread runs only this call;
	// others end with goroutines such as the workers of the sandbox (TestGitSurvivesThreads).
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter only after git itself has succeeded
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("git cannot be started: %w; install it", exec.ErrNotFound)
	}
	if err := refused(); err != nil {
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	text := strings.TrimSpace(stderr.String())
	if dir != "" { // a message names the repository, not a directory of the cache
		text = strings.NewReplacer(dir+"/", "", " in '"+dir+"'", "", dir, "the checkout").Replace(text)
	}
	if text == "" {
		text = err.Error()
	}
	if m := full.FindStringSubmatch(text); m != nil {
		return nil, fmt.Errorf("git %s: %s: %w", args[0], m[1], syscall.ENOSPC)
	}
	if f.Auth != "" && redirected.MatchString(text) {
		text += "; git follows no redirect with credentials, so use the URL to which " + f.Host + " redirects"
	}
	return nil, fmt.Errorf("git %s: %s", args[0], text)
}

// full matches git's message for a full disk. Messages about the server's disk have the prefix "remote: ".
var full = regexp.MustCompile(`(?im)^(?:fatal|error): (.*): (?:No space left on device|Disk quota exceeded)$`)

// redirected matches git's message for a redirect that it did not follow.
var redirected = regexp.MustCompile(`returned error: 30[1278]\b`)

// gitEnv returns the environment of git with the credentials for a repository.
//
// A repository is hostile: its submodules, and redirects of its server, name other hosts, and git would send them the
// credentials. So both kinds of credentials are limited to one scheme, host and port. The token of Auth is an extra
// header for https://Host/ only, without redirects, since git would repeat the header at the target of a redirect. The
// user and password of an http URL are added by an insteadOf rule for URLs that begin with that scheme and host; git
// gets the Public URL everywhere else. The invariant: credentials are in the environment of git only. As arguments,
// every user of the machine could read them. In the configuration of a checkout, they would become part of an image.
// TestCredentialsFollowNoRedirect shows that the target of a redirect gets none. TestAddGitPassword in cmd/bake shows
// that a submodule on the same host gets them, and that no stored file contains them.
func (f *Fetcher) gitEnv(remote string) []string {
	env := append(f.Env[:len(f.Env):len(f.Env)], "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null", "LC_ALL=C", "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	if f.Auth != "" {
		scope := "http.https://" + f.Host + "/"
		env = append(env, "GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0="+scope+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+f.Auth,
			"GIT_CONFIG_KEY_1="+scope+".followRedirects", "GIT_CONFIG_VALUE_1=false")
	}
	if scheme, user, rest := credentials(remote); user != "" {
		host, _, _ := strings.Cut(rest, "/")
		// Of git's configuration variables only this one is passed to the git of submodules. The option -c adds to it.
		rule := quote("url."+scheme+user+"@"+host+"/.insteadOf") + "=" + quote(scheme+host+"/")
		env = append(env, "GIT_CONFIG_PARAMETERS="+rule)
	}
	return env
}

// quote quotes a string as in GIT_CONFIG_PARAMETERS.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// limited is a buffer that keeps the first maxOutput bytes and discards the rest.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if rest := maxOutput - l.Len(); rest > 0 {
		l.Buffer.Write(p[:min(len(p), rest)])
	}
	return len(p), nil
}
