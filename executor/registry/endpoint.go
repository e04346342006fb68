package registry

// A pull tries the mirrors of an image in order, then the registry itself. A mirror may be down, lack the image or send
// wrong content: the next one is tried. Digests and names stay those of the registry, so mirrors never appear in a
// result. Each endpoint gets only its own credentials. A push goes to the registry, never to a mirror
// (TestMirrorFallback, TestMirrorWithWrongContentIsSkipped).

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// image is a parsed reference.
type image struct {
	named  reference.Named // normalized, with :latest if it had neither tag nor digest
	digest digest.Digest   // empty if there is only a tag
}

// parseImage parses a reference as users write it.
func parseImage(ref string) (image, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return image{}, &Error{Ref: ref, What: "read the image reference " + ref, Cause: err,
			Hint: "write it as [HOST[:PORT]/]NAME[:TAG][@sha256:…]"}
	}
	i := image{named: reference.TagNameOnly(named)}
	if d, ok := named.(reference.Digested); ok {
		i.digest = d.Digest()
	}
	return i, nil
}

// String returns the normalized reference.
func (i image) String() string { return i.named.String() }

// tag returns the tag, or "" if there is only a digest.
func (i image) tag() string {
	if t, ok := i.named.(reference.Tagged); ok {
		return t.Tag()
	}
	return ""
}

// tagOrDigest returns the digest if there is one, else the tag.
func (i image) tagOrDigest() string {
	if i.digest != "" {
		return i.digest.String()
	}
	return i.tag()
}

// endpoint is one repository on one host.
type endpoint struct {
	host     string // with the port; index.docker.io for Docker Hub
	repo     string
	plain    bool // plain HTTP only
	assumed  bool // plain only because it is loopback: no table configures it
	insecure bool // plain HTTP and unverified certificates are allowed
	mirror   bool
	ca       string // files of additional trusted certificates, as a path list
}

func (e endpoint) String() string { return e.host + "/" + e.repo }

// pulls returns the endpoints from which to pull an image, in order.
func (c *Config) pulls(i image) ([]endpoint, error) {
	r, err := c.find(i)
	if err != nil || r == nil {
		return []endpoint{newEndpoint(i.named.Name(), nil)}, err
	}
	var all []endpoint
	for _, m := range r.Mirrors {
		byDigest := i.digest != ""
		if (m.Pull == "digest-only" || r.MirrorByDigestOnly) && !byDigest || m.Pull == "tag-only" && byDigest {
			continue
		}
		all = append(all, c.mirror(r.rewrite(i.named.Name(), m.Location), m))
	}
	return append(all, r.endpoint(i.named.Name())), nil
}

// Locations returns the repositories from which an image may be pulled, HOST/PATH each, in the order in which they are
// tried, whether it is requested by tag or by digest. A reference that is invalid or blocked has none.
func (c *Config) Locations(ref string) []string {
	i, err := parseImage(ref)
	if err != nil {
		return nil
	}
	byTag, byDigest := i, i
	byTag.digest, byDigest.digest = "", "sha256:0"
	var all []string
	for _, one := range []image{byTag, byDigest} {
		endpoints, err := c.pulls(one)
		if err != nil {
			return nil
		}
		for _, e := range endpoints {
			at := loginHost(e.host) + "/" + e.repo
			if !slices.Contains(all, at) {
				all = append(all, at)
			}
		}
	}
	return all
}

// push returns the endpoint to which to push an image.
func (c *Config) push(i image) (endpoint, error) {
	r, err := c.find(i)
	if err != nil || r == nil {
		return newEndpoint(i.named.Name(), nil), err
	}
	return r.endpoint(i.named.Name()), nil
}

// endpoint returns the endpoint for a name with the table's prefix.
func (r *Registry) endpoint(name string) endpoint {
	e := newEndpoint(r.rewrite(name, r.Location), r.Insecure)
	e.configure(r)
	return e
}

// mirror returns the endpoint of a mirror. A table for the mirror itself configures the connection.
func (c *Config) mirror(name string, m Mirror) endpoint {
	e := newEndpoint(name, m.Insecure)
	if own := c.longest(name); own != nil {
		e.configure(own)
	}
	e.mirror = true
	return e
}

// configure applies the connection settings of a table, except Insecure.
func (e *endpoint) configure(r *Registry) {
	switch {
	case r.PlainHTTP:
		e.plain, e.assumed, e.insecure = true, false, false
	case len(r.CA) > 0:
		e.plain, e.assumed, e.ca = false, false, strings.Join(r.CA, string(filepath.ListSeparator))
	}
}

// find returns the table with the longest matching prefix, or nil. It fails if the table blocks the image.
func (c *Config) find(i image) (*Registry, error) {
	best := c.longest(i.named.Name())
	if best != nil && best.Blocked {
		return nil, &Error{
			Registry: reference.Domain(i.named), Ref: i.String(), What: "use " + reference.FamiliarString(i.named),
			Reason: "registries.conf blocks " + best.Prefix,
			Hint:   "use another image, or remove blocked = true from registries.conf",
		}
	}
	return best, nil
}

// longest returns the table with the longest prefix that matches a name, or nil.
func (c *Config) longest(name string) *Registry {
	if c == nil {
		return nil
	}
	var best *Registry
	for k := range c.Registries {
		r := &c.Registries[k]
		if r.matched(name) >= 0 && (best == nil || len(r.Prefix) > len(best.Prefix)) {
			best = r
		}
	}
	return best
}

// matched returns how many bytes of the name the prefix matches, or -1.
func (r *Registry) matched(name string) int {
	if suffix, ok := strings.CutPrefix(r.Prefix, "*"); ok {
		domain, _, _ := strings.Cut(name, "/")
		host, _, _ := strings.Cut(domain, ":")
		if strings.HasSuffix(domain, suffix) && len(domain) > len(suffix) {
			return len(domain)
		}
		if !strings.Contains(suffix, ":") && strings.HasSuffix(host, suffix) && len(host) > len(suffix) {
			return len(domain)
		}
		return -1
	}
	rest, ok := strings.CutPrefix(name, r.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return -1
	}
	return len(r.Prefix)
}

// rewrite replaces the prefix of a name by location.
func (r *Registry) rewrite(name, location string) string {
	if location == "" {
		return name
	}
	return location + name[r.matched(name):]
}

// newEndpoint splits host/path. insecure is the setting in registries.conf, or nil.
func newEndpoint(name string, insecure *bool) endpoint {
	host, repo, _ := strings.Cut(name, "/")
	if host == "docker.io" {
		host = "index.docker.io" // the name that credential files use
	}
	e := endpoint{host: host, repo: repo}
	switch {
	case insecure != nil:
		e.insecure = *insecure
	case isLoopback(host):
		e.plain, e.assumed = true, true
	}
	return e
}

// pulls returns the endpoints from which to pull an image, in order.
func (c *Client) pulls(i image) ([]endpoint, error) {
	all, err := c.opt.Config.pulls(i)
	for k := range all {
		all[k] = c.certified(all[k])
	}
	return all, err
}

// push returns the endpoint to which to push an image.
func (c *Client) push(i image) (endpoint, error) {
	at, err := c.opt.Config.push(i)
	return c.certified(at), err
}

// certified switches a loopback registry to HTTPS if certs.d has certificates for it.
func (c *Client) certified(at endpoint) endpoint {
	if at.assumed && c.certDir(at.host) != "" {
		at.plain = false
	}
	at.assumed = false
	return at
}

// isLoopback reports whether a host, with or without a port, is this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}
