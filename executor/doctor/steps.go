package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/scratch"
)

// noCommand is the command of a trial step. It does not exist, so a sandbox that was completely set up returns exit
// code 127 and runs nothing.
const noCommand = "/bake-doctor"

// steps holds what the checks of steps share.
type steps struct {
	cache *cacheDir
	place *scratch.Place
	// blocked is why no step can run, "" if one may.
	blocked string
	network *network.Network
	name    string // that steps look up; "" looks up nothing

	once  sync.Once
	trial network.Trial
}

// run sets up a step that has a minimal root and no network, with the given filters.
func (s *steps) run(ctx context.Context, filters func() ([][]byte, error)) error {
	store, err := s.cache.get()
	if err != nil {
		return err
	}
	draft, err := store.NewLayer()
	if err != nil {
		return err
	}
	defer draft.Discard()
	if err := makeRoot(draft.FS); err != nil {
		return err
	}
	box := &sandbox.Sandbox{Filters: filters, Idle: time.Millisecond}
	defer box.Close()
	res, err := box.Run(ctx, sandbox.Spec{
		Root: sandbox.Overlay{Lower: []string{draft.FS}}, Args: []string{noCommand}, Cwd: "/", Hostname: "bake",
		Network: sandbox.Isolated,
	})
	if err == nil && res.ExitCode != 127 {
		err = fmt.Errorf("a step ended with exit code %d", res.ExitCode)
	}
	return err
}

// makeRoot creates the mountpoints of a step.
func makeRoot(dir string) error {
	for _, sub := range []string{"proc", "sys", "dev", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"hosts", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// check returns a check that is skipped if no step can run.
func (s *steps) check(name string, run func(ctx context.Context) Finding) Check {
	return Check{Name: name, Run: func(ctx context.Context) Finding {
		if s.blocked != "" {
			return skipf("%s", s.blocked)
		}
		return run(ctx)
	}}
}

// sandbox checks that a step can be set up, without a filter.
func (s *steps) sandbox() Check {
	return s.check("sandbox", func(ctx context.Context) Finding {
		err := s.run(ctx, func() ([][]byte, error) { return nil, nil })
		if err == nil {
			return okf("steps get their own namespaces and root")
		}
		return stepFault(ctx, "no step can be set up", err)
	})
}

// seccomp checks that the filter of steps can be loaded.
func (s *steps) seccomp(filters func() ([][]byte, error)) Check {
	return s.check("seccomp", func(ctx context.Context) Finding {
		err := s.run(ctx, filters)
		var e *sandbox.UnavailableError
		switch {
		case err == nil:
			return okf("the system calls of steps are filtered")
		case errors.As(err, &e) && !strings.Contains(e.What, "filter"):
			return skipf("no step can be set up; see sandbox")
		}
		return stepFault(ctx, "the filter of system calls cannot be loaded", err)
	})
}

// overlay checks that the file system of the cache can hold layers.
func (s *steps) overlay() Check {
	return s.check("overlay", func(ctx context.Context) Finding {
		store, err := s.cache.get()
		if err != nil {
			return skipf("the cache cannot be opened")
		}
		if s.place != nil {
			return warn(s.place.Cause(), s.place.Remedy())
		}
		draft, err := store.NewLayer()
		if err != nil {
			return stepFault(ctx, "no layer can be created", err)
		}
		defer draft.Discard()
		kind := cache.FileSystem(draft.FS)
		if err := sandbox.TryOverlay(draft.FS, inNamespace()); err != nil {
			var e *sandbox.UnavailableError
			if errors.As(err, &e) {
				return fail(e.What+": "+e.Err.Error(), e.Hint)
			}
			return fail("layers cannot be mounted on "+kind+": "+err.Error(),
				"set BAKE_CACHE_DIR to a directory on ext4, xfs, btrfs or tmpfs")
		}
		return okf("layers can be mounted on %s", kind)
	})
}

// stepFault returns the finding for an error of a sandbox.
func stepFault(ctx context.Context, what string, err error) Finding {
	var e *sandbox.UnavailableError
	var c *cache.Error
	switch {
	case errors.As(err, &e):
		return fail(what+": "+e.What+": "+e.Err.Error(), e.Hint)
	case errors.As(err, &c):
		return skipf("the cache cannot be opened")
	}
	return fail(what+": "+late(ctx, err), "")
}

// connect connects the network of a step once for both checks of it.
func (s *steps) connect(ctx context.Context) network.Trial {
	s.once.Do(func() { s.trial = s.network.Try(ctx, s.name) })
	return s.trial
}

// connected checks that the network of a step can be connected.
func (s *steps) connected() Check {
	return s.check("network of steps", func(ctx context.Context) Finding {
		t := s.connect(ctx)
		if t.Connect == nil {
			return okf("steps get a network of their own")
		}
		fix := "load the kernel module veth, or set network = \"none\" in the targets"
		if errors.Is(t.Connect, unix.EPERM) || errors.Is(t.Connect, unix.EACCES) {
			fix = sandbox.Hint()
		}
		return fail("the network of a step cannot be connected: "+late(ctx, t.Connect), fix)
	})
}

// names checks that a name server answers steps.
func (s *steps) names() Check {
	c := s.check("name servers of steps", func(ctx context.Context) Finding {
		if s.name == "" {
			return skipf("--offline is set")
		}
		t := s.connect(ctx)
		servers := serverList(t.Servers)
		switch {
		case t.Connect != nil:
			return skipf("steps have no network")
		case t.Names != nil:
			return fail("none of "+servers+" answers a step: "+t.Names.Error(),
				"correct the nameserver lines of /etc/resolv.conf")
		case t.Answer == dnsmessage.RCodeServerFailure || t.Answer == dnsmessage.RCodeRefused:
			return warn(fmt.Sprintf("%s cannot look up %s: %s", servers, s.name, answerText(t.Answer)),
				"correct the nameserver lines of /etc/resolv.conf, or check the name server")
		}
		return okf("%s answers steps", servers)
	})
	c.Area = Network
	return c
}

func answerText(code dnsmessage.RCode) string {
	return map[dnsmessage.RCode]string{
		dnsmessage.RCodeServerFailure: "SERVFAIL", dnsmessage.RCodeRefused: "REFUSED",
	}[code]
}

func serverList(all []netip.AddrPort) string {
	var list []string
	for _, s := range all {
		list = append(list, s.Addr().String())
	}
	return strings.Join(list, ", ")
}
