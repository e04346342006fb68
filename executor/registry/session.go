package registry

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// session is a repository on a host, with the user's credentials for it.
type session struct {
	at        endpoint
	repo      name.Repository
	auth      authn.Authenticator
	account   string // who asks, for messages; empty is anonymous
	guard     *guard
	transport http.RoundTripper // without authentication
	authed    http.RoundTripper // with it
	client    *http.Client      // on authed
}

// opening is a session that is being made, once.
type opening struct {
	mu sync.Mutex
	s  *session
}

// session connects to a repository: asks the registry how it authenticates and gets a token for pulls. The session is
// of use for messages also when err is not nil.
func (c *Client) session(ctx context.Context, at endpoint) (*session, error) {
	return c.sessionFor(ctx, at, transport.PullScope, nil)
}

// sessionFor connects to a repository for what scope says, and for pulls from other repositories of the registry too.
// Each combination is connected to once.
func (c *Client) sessionFor(ctx context.Context, at endpoint, scope string, others []name.Repository) (*session, error) {
	key := at.String() + " " + scope
	for _, repo := range others {
		key += " " + repo.String()
	}
	c.mu.Lock()
	o := c.sessions[key]
	if o == nil {
		o = &opening{}
		c.sessions[key] = o
	}
	c.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.s != nil {
		return o.s, nil
	}
	s, err := c.prepare(ctx, at)
	if err != nil {
		return s, err
	}
	scopes := []string{s.repo.Scope(scope)}
	for _, repo := range others {
		scopes = append(scopes, repo.Scope(transport.PullScope))
	}
	s.authed, err = transport.NewWithContext(ctx, s.repo.Registry, s.auth, s.transport, scopes)
	if err != nil {
		return s, err
	}
	s.client = &http.Client{Transport: s.authed, CheckRedirect: checkRedirect}
	o.s = s
	return s, nil
}

// prepare makes a session that has not connected.
func (c *Client) prepare(ctx context.Context, at endpoint) (*session, error) {
	h, err := c.host(at)
	s := &session{at: at, guard: h.guard, transport: h.transport}
	if c.opt.Offline {
		return s, errOffline
	}
	if err != nil {
		return s, err
	}
	repo, err := name.NewRepository(at.String(), nameOptions(at)...)
	if err != nil {
		return s, contentf("%s", err)
	}
	s.repo = repo
	return s, c.authenticate(ctx, s)
}

func nameOptions(at endpoint) []name.Option {
	if at.plain || at.insecure {
		return []name.Option{name.Insecure}
	}
	return nil
}

// authenticate finds the user's credentials for the session's host. Helpers are programs of the user's: one that hangs
// does not keep the context from ending.
func (c *Client) authenticate(ctx context.Context, s *session) error {
	type answer struct {
		config *authn.AuthConfig
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		auth, err := authn.Resolve(ctx, c.opt.Keychain, s.repo)
		if err != nil {
			got <- answer{err: err}
			return
		}
		config, err := authn.Authorization(ctx, auth)
		got <- answer{config, err}
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case a := <-got:
		if a.err != nil {
			// A helper's output may hold the secret.
			text, _, _ := strings.Cut(a.err.Error(), ", out:")
			return &credentialError{"the credentials for " + loginHost(s.at.host) + " cannot be read: " + clean(text)}
		}
		s.auth = authn.Anonymous
		if *a.config != (authn.AuthConfig{}) {
			s.auth = authn.FromConfig(*a.config)
			s.account = a.config.Username
			if s.account == "" || s.account == "<token>" {
				s.account = "the stored token"
			}
			s.guard.conceal(a.config.Password, a.config.Auth, a.config.IdentityToken, a.config.RegistryToken)
		}
		return nil
	}
}

// identity says who the registry was asked as.
func (s *session) identity() string {
	if s.account == "" {
		return "and no credentials for " + loginHost(s.at.host) + " are configured"
	}
	return "asked with the credentials of " + clean(s.account) + " for " + loginHost(s.at.host)
}

// scrub takes the session's secrets out of a text.
func (s *session) scrub(text string) string { return s.guard.scrub(text) }
