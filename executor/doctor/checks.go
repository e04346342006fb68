package doctor

import (
	"context"
	"net/url"
	"time"

	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/cgroup"
	"github.com/bakebuild/bake/executor/embedded/network"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/embedded/scratch"
	"github.com/bakebuild/bake/executor/embedded/seccomp"
	"github.com/bakebuild/bake/executor/registry"
)

// MachineOptions say what to check of a machine.
type MachineOptions struct {
	User     User
	CacheDir string
	Place    *scratch.Place // where builds unpack layers; nil if that is the cache
	Offline  bool           // ask no name server
}

// lookup is the name that steps look up: the registry of names without one.
const lookup = "registry-1.docker.io"

// MachineChecks returns the checks of this machine, in the order of the report. Call done after Run; it does not wait
// for checks that were left behind.
func MachineChecks(o MachineOptions) (checks []Check, done func() error) {
	dir := &cacheDir{dir: o.CacheDir, open: func(dir string) (*cache.Store, error) {
		s, err := cache.Open(dir)
		if err != nil {
			return nil, err
		}
		return s, o.Place.Use(s)
	}}
	s := &steps{cache: dir, place: o.Place, network: &network.Network{}, name: lookup}
	if o.Offline {
		s.name = ""
	}
	if o.User.canRun() != nil {
		s.blocked = "see user namespaces"
	}
	checks = []Check{
		kernel(release, sandbox.MissingCalls), clock(time.Now), openFiles(),
		namespaces(o.User), newuidmap(o.User), subordinateIDs(o.User),
		dir.check(), disk(o.CacheDir),
		s.sandbox(), s.overlay(), s.seccomp(seccomp.Filters), s.connected(), s.names(), cgroups(&cgroup.Groups{}),
		git(),
	}
	return checks, func() error {
		closed := make(chan error, 1)
		go func() { closed <- dir.close() }()
		select {
		case err := <-closed:
			return err
		case <-time.After(grace):
			return nil // the next process that opens the cache removes what is left
		}
	}
}

// RemoteOptions say which services to check.
type RemoteOptions struct {
	Client *registry.Client
	// Images are references whose registries builds use.
	Images []string
	// Engines are the BuildKit daemons that builds would use.
	Engines []buildkitd.Builder
	Getenv  func(string) (string, bool)
	// Offline contacts no registry or BuildKit daemon. A Docker engine is asked, as it is by an offline build.
	Offline bool
}

// RemoteChecks returns the checks of services, in the order of the report. It reads the user's files of credentials.
func RemoteChecks(o RemoteOptions) []Check {
	env := func(name string) string { v, _ := o.Getenv(name); return v }
	checks := registries(o.Client, o.Images, o.Offline)
	checks = append(checks, helpers(o.Getenv)...)
	checks = append(checks, dockerEngine(env))
	return append(checks, engines(o.Engines, o.Offline)...)
}

// Fault returns a check that reports an error of something that every build reads first.
func Fault(name string, area Area, err error) Check {
	return Check{Name: name, Area: area, Run: func(context.Context) Finding { return fail(err.Error(), "") }}
}

// safeAddress returns an address without a password.
func safeAddress(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "address"
	}
	return u.Redacted()
}
