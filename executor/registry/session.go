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

// session is a connection to a repository, with the user's credentials for it.
type session struct {
	at        endpoint
	repo      name.Repository
	auth      authn.Authenticator
	account   string // user name for messages; empty if anonymous
	guard     *guard
	transport http.RoundTripper // without authentication
	authed    http.RoundTripper // with it
	client    *http.Client      // on authed
}

// opening is a session that is opened once.
type opening struct {
	mu sync.Mutex
	s  *session
}

// session opens a repository for pulls. If the error is not nil, the session can only be used for messages.
func (c *Client) session(ctx context.Context, at endpoint) (*session, error) {
	return c.sessionFor(ctx, at, transport.PullScope, nil)
}

// sessionFor opens a repository with a scope, and with pull access to other repositories of the registry. Each
// combination is opened once.
func (c *Client) sessionFor(ctx context.Context, at endpoint, scope string, others []name.Repository) (*session,
	error) {
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

// prepare creates a session without connecting.
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

// authenticate finds the user's credentials for the session's host. It returns when the context ends, even if a
// credential helper hangs.
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
			// The output of a helper may contain the secret.
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

// identity describes the account used, for messages.
func (s *session) identity() string {
	if s.account == "" {
		return "and no credentials for " + loginHost(s.at.host) + " are configured"
	}
	return "using the credentials of " + clean(s.account) + " for " + loginHost(s.at.host)
}

// scrub removes the session's secrets from text.
func (s *session) scrub(text string) string { return s.guard.scrub(text) }
