package registry

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Place is a registry or a mirror that requests may go to.
type Place struct {
	Host string // with the port, as people write it: docker.io for Docker Hub
	// Prefix is the prefix of the table or block whose location it is, or "".
	Prefix string
	// MirrorOf is the prefix of the registries.conf table or registry block that names it as a mirror, or "".
	MirrorOf string
	// Configured reports that a registries.conf table or a registry block names it.
	Configured bool

	at endpoint
}

// Places returns the registries and mirrors that the configuration names, and the registries of images, each host once.
// Images whose reference is invalid are ignored.
func (c *Client) Places(images []string) []Place {
	var all []Place
	add := func(p Place) {
		p.Host, p.at.repo, p.at.mirror = loginHost(p.at.host), "", false
		p.at = c.certified(p.at)
		if !slices.ContainsFunc(all, func(q Place) bool { return q.at == p.at }) {
			all = append(all, p)
		}
	}
	if c.opt.Config != nil {
		for i := range c.opt.Config.Registries {
			r := &c.opt.Config.Registries[i]
			if r.Blocked {
				continue
			}
			if r.Location != "" {
				e := newEndpoint(r.Location, r.Insecure)
				e.configure(r)
				add(Place{at: e, Prefix: r.Prefix, Configured: true})
			}
			for _, m := range r.Mirrors {
				add(Place{at: c.opt.Config.mirror(m.Location, m), MirrorOf: r.Prefix, Configured: true})
			}
		}
	}
	for _, ref := range images {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			continue
		}
		if at, err := c.opt.Config.push(image{named: named}); err == nil {
			add(Place{at: at})
		}
	}
	return all
}

// Pong describes how a registry answered.
type Pong struct {
	Account string    // the account that it accepted, "" without credentials
	Clock   time.Time // its Date header; zero without one
}

// Ping asks a registry how to authenticate and, if the user has credentials for it, logs in with them. The error is an
// *Error.
func (c *Client) Ping(ctx context.Context, p Place) (Pong, error) {
	h, err := c.host(p.at)
	s := &session{at: p.at, guard: h.guard, transport: h.transport}
	pong := Pong{}
	if err == nil {
		pong, err = c.ping(ctx, s)
	}
	if err == nil || ctx.Err() != nil {
		return pong, errors.Join(err, context.Cause(ctx))
	}
	e := &Error{Registry: p.at.host, What: "contact " + p.Host, Cause: err}
	var known *Error
	if errors.As(err, &known) {
		return pong, known
	}
	e.explain(s)
	e.Reason = s.scrub(e.Reason)
	return pong, e
}

func (c *Client) ping(ctx context.Context, s *session) (Pong, error) {
	if c.opt.Offline {
		return Pong{}, errOffline
	}
	host, err := name.NewRegistry(s.at.host, nameOptions(s.at)...)
	if err != nil {
		return Pong{}, contentf("%s", err)
	}
	clock := &dateReader{next: s.transport}
	if _, err := transport.Ping(ctx, host, clock); err != nil {
		return Pong{}, err
	}
	pong := Pong{Clock: clock.date}
	if s.repo, err = name.NewRepository(s.at.host+"/bake", nameOptions(s.at)...); err != nil {
		return pong, contentf("%s", err)
	}
	if err := c.authenticate(ctx, s); err != nil || s.auth == authn.Anonymous {
		return pong, err
	}
	authed, err := transport.NewWithContext(ctx, host, s.auth, s.transport, nil)
	if err != nil {
		return pong, err
	}
	pong.Account = clean(s.account)
	return pong, login(ctx, host, authed)
}

// login sends the request that docker login sends.
func login(ctx context.Context, host name.Registry, authed http.RoundTripper) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host.Scheme()+"://"+host.RegistryStr()+"/v2/", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: authed, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &statusError{status: res.StatusCode, from: host.RegistryStr()}
	}
	return nil
}

// dateReader is a transport that remembers the Date header of the last answer.
type dateReader struct {
	next http.RoundTripper
	date time.Time
}

// RoundTrip implements http.RoundTripper.
func (d *dateReader) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := d.next.RoundTrip(req)
	if err == nil {
		if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
			d.date = at
		}
	}
	return res, err
}

// Helper is a credential helper that the user's files name: the program docker-credential-NAME.
type Helper struct {
	Name  string
	File  string   // that names it first
	Hosts []string // it is used for; empty means all without a helper of their own
}

// Helpers returns the credential helpers that the user's files name, sorted by name. The error names a file that cannot
// be read.
func Helpers(getenv func(string) (string, bool)) ([]Helper, error) {
	all := map[string]Helper{}
	for _, path := range authPaths(getenv) {
		file, err := loadAuth(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &credentialError{clean(err.Error())}
		}
		add := func(helper, host string) {
			h, known := all[helper]
			switch {
			case helper == "":
				return
			case !known:
				h = Helper{Name: helper, File: path}
			case len(h.Hosts) == 0:
				return // for all hosts already
			}
			if h.Hosts = append(h.Hosts, host); host == "" {
				h.Hosts = nil
			}
			all[helper] = h
		}
		add(file.store, "")
		for _, host := range slices.Sorted(maps.Keys(file.helpers)) {
			add(file.helpers[host], host)
		}
	}
	var list []Helper
	for _, n := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[n])
	}
	return list, nil
}
