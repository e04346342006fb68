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
	"github.com/bakebuild/bake/executor/embedded/seccomp"
	"github.com/bakebuild/bake/executor/registry"
)

// Options say what to check.
type Options struct {
	User     User
	CacheDir string
	Client   *registry.Client
	// Images are references whose registries builds use.
	Images []string
	// Engines are the BuildKit daemons that builds would use.
	Engines []buildkitd.Builder
	Getenv  func(string) (string, bool)
	// Offline contacts no registry, name server or engine. A Docker engine is asked, as it is by an offline build.
	Offline bool
}

// lookup is the name that steps look up: the registry of names without one.
const lookup = "registry-1.docker.io"

// Checks returns the checks of a machine, in the order of the report. Call done after Run.
func Checks(o Options) (checks []Check, done func() error) {
	dir := &cacheDir{dir: o.CacheDir, open: cache.Open}
	s := &steps{cache: dir, network: &network.Network{}, name: lookup}
	if o.Offline {
		s.name = ""
	}
	if o.User.Entered != nil || !needsNone() && !inNamespace() {
		s.blocked = "see user namespaces"
	}
	env := func(name string) string { v, _ := o.Getenv(name); return v }
	checks = []Check{
		kernel(release, sandbox.MissingCalls), clock(time.Now), openFiles(),
		namespaces(o.User), newuidmap(o.User), subordinateIDs(o.User),
		dir.check(), disk(o.CacheDir),
		s.sandbox(), s.overlay(), s.seccomp(seccomp.Filters), s.connected(), s.names(), cgroups(&cgroup.Groups{}),
		git(),
	}
	checks = append(checks, registries(o.Client, o.Images, o.Offline)...)
	checks = append(checks, helpers(o.Getenv)...)
	checks = append(checks, dockerEngine(env))
	checks = append(checks, engines(o.Engines, o.Offline)...)
	return checks, dir.close
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
