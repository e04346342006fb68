package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

func TestCredentialHelperFails(t *testing.T) {
	f := newFake(t, nil)
	useHelper(t, f.host, "echo '{\"Secret\":\"hunter22\"}'\necho broken keyring >&2\nexit 3\n")
	c := newTestClient(t, func(o *Options) { o.Keychain = nil })
	_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
	e := asError(t, err)
	contains(t, e, "credentials for "+f.host+" cannot be read", "docker login "+f.host)
	if strings.Contains(e.Error(), "hunter22") {
		t.Errorf("the helper's output is in %s", e)
	}
	if len(f.requests()) != 0 {
		t.Error("the registry was asked without the credentials that are configured for it")
	}
}

// TestCredentialHelperInterrupted checks that the end of the context kills a helper, and that the next request asks it
// again.
func TestCredentialHelperInterrupted(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	dir := useHelper(t, "registry.example.com", "if test -e "+pids+"; then\n"+
		`echo '{"Username":"me","Secret":"hunter22"}'; exit; fi`+
		"\nsleep 600 &\necho $$ $! >"+pids+"\nwait\n")
	k := newKeychain([]string{filepath.Join(dir, "config.json")}, time.Minute)
	repository, err := name.NewRepository("registry.example.com/x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for raw, _ := os.ReadFile(pids); !strings.HasSuffix(string(raw), "\n"); raw, _ = os.ReadFile(pids) {
			time.Sleep(time.Millisecond) // until the helper has started
		}
		cancel()
	}()
	if _, err := k.ResolveContext(ctx, repository); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	wantEnded(t, pids)
	auth, err := k.Resolve(repository)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := auth.Authorization(); err != nil || c.Password != "hunter22" {
		t.Errorf("the second request got %v, %v", c, err)
	}
}

// wantEnded checks that the processes whose ids a file lists have ended.
func wantEnded(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range strings.Fields(string(raw)) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if stat, _ := os.ReadFile("/proc/" + text + "/stat"); strings.Contains(string(stat), ") Z ") {
				break // ended, and not collected yet by the process that inherited it
			}
			if time.Now().After(end) {
				t.Errorf("process %d of the helper still runs", pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
	}
}

// TestCredentialHelperHangs checks that a helper that never answers is waited for once, for a limited time, and that
// neither it nor the process that it started is left running.
func TestCredentialHelperHangs(t *testing.T) {
	f := newFake(t, nil)
	pids := filepath.Join(t.TempDir(), "pids")
	dir := useHelper(t, f.host, "sleep 600 2>/dev/null &\necho $$ $! >"+pids+"\nwait\n")
	stuck := newKeychain([]string{filepath.Join(dir, "config.json")}, 3*time.Second)
	c := newTestClient(t, func(o *Options) { o.Keychain = stuck })
	for range 2 {
		_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
		contains(t, asError(t, err), "credentials for "+f.host+" cannot be read", "did not respond within 3s",
			"| docker-credential-own get")
	}
	if len(f.requests()) != 0 {
		t.Error("the registry was asked without the credentials that are configured for it")
	}
	wantEnded(t, pids)
}

// useHelper makes a shell script the credential helper for a host and returns the directory of its configuration.
func useHelper(t *testing.T, host, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-own"), []byte("#!/bin/sh\n"+script),
		0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"own"}}`, host),
		0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}
