package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// maxReason bounds how many bytes of text from a registry or a credential helper are shown.
const maxReason = 400

// Error describes a failure of a registry. Error() is the complete message for the user: what, where, why, what to do.
type Error struct {
	Registry string        // host[:port]; empty if the failure concerns a file or a reference
	Ref      string        // the requested image, normalized
	Status   int           // HTTP status, 0 without an answer
	What     string        // the operation, such as "pull busybox:1.35"
	Reason   string        // why, for the user; if empty, Cause is shown
	Hint     string        // what the user can do
	After    time.Duration // from Retry-After, 0 without
	Cause    error

	temporary   bool
	mirror      bool // a mirror failed, not the registry itself
	environment bool
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.What)
	if e.Registry != "" && !strings.Contains(e.What, e.Registry) {
		fmt.Fprintf(&b, " (registry %s)", e.Registry)
	}
	switch {
	case e.Reason != "":
		b.WriteString(": " + e.Reason)
	case e.Cause != nil:
		b.WriteString(": " + clean(e.Cause.Error()))
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Temporary reports whether the same request may succeed later: no connection, an overloaded or failing registry, or
// an interrupted transfer.
func (e *Error) Temporary() bool { return e.temporary }

// Environment reports whether the cause is the network, the state of the registry or the configuration of this machine,
// rather than the request.
func (e *Error) Environment() bool { return e.temporary || e.environment }

// NotFound reports whether the registry answered that what was requested does not exist.
func (e *Error) NotFound() bool { return e.Status == http.StatusNotFound }

// stallError means that almost no data was transferred for too long.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string {
	return fmt.Sprintf("no data received for %s: transfer cancelled", e.after)
}

// Timeout implements net.Error.
func (e *stallError) Timeout() bool   { return true }
func (e *stallError) Temporary() bool { return true }

// statusError is an answer with an unexpected status.
type statusError struct {
	status int
	reason string // from the body, cleaned
	after  time.Duration
	from   string // the host that answered; empty if unknown
}

func (e *statusError) Error() string { return "it " + e.text() }

func (e *statusError) text() string {
	text := fmt.Sprintf("responded %d %s", e.status, http.StatusText(e.status))
	if e.reason != "" {
		text += " (" + e.reason + ")"
	}
	return text
}

// contentError means that content does not match its description, or is not a usable image. It is not retried.
type contentError struct{ text string }

func (e *contentError) Error() string { return e.text }

func contentf(format string, args ...any) error { return &contentError{fmt.Sprintf(format, args...)} }

// credentialError means that the user's credentials cannot be read.
type credentialError struct{ text string }

func (e *credentialError) Error() string { return e.text }

// fail turns err into an *Error about an endpoint. A cancelled context and an *Error are returned unchanged.
func (s *session) fail(what string, i image, err error) error {
	var known *Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.As(err, &known):
		return err
	}
	e := &Error{Registry: s.at.host, Ref: i.String(), What: what, Cause: err}
	if s.at.mirror {
		e.What += " from mirror " + s.at.String()
		e.mirror = true
	}
	e.explain(s)
	e.Reason = s.scrub(e.Reason)
	return e
}

// explain sets the reason and the hint, depending on the cause.
func (e *Error) explain(s *session) {
	var (
		status  *statusError
		ggcr    *transport.Error
		content *contentError
		creds   *credentialError
		stall   *stallError
	)
	switch {
	case errors.Is(e.Cause, errOffline):
		e.Reason = "--offline is set, and the local store lacks part of it"
		e.Hint = "build once without --offline, or fetch it: bake image pull"
	case errors.As(e.Cause, &status):
		e.status(s, status)
	case errors.As(e.Cause, &ggcr):
		e.status(s, fromTransport(ggcr))
	case errors.As(e.Cause, &content):
		e.Reason = clean(content.text)
		e.Hint = "the registry or a proxy sent wrong content; try again, or use another image or registry"
	case errors.As(e.Cause, &creds):
		e.Reason, e.environment = creds.text, true
		e.Hint = "correct the Docker configuration, or log in again: docker login " + loginHost(s.at.host)
	case errors.As(e.Cause, &stall):
		e.Reason, e.temporary = stall.Error(), true
		e.Hint = "check the network, or use a mirror (registries.conf)"
	default:
		e.network(s)
	}
}

// status explains an HTTP answer.
func (e *Error) status(s *session, st *statusError) {
	e.Status, e.After, e.Reason = st.status, st.after, st.Error()
	elsewhere := st.from != "" && st.from != s.at.host
	if elsewhere {
		e.Reason = clean(st.from) + ", where the content is stored, " + st.text()
	}
	switch {
	case elsewhere && st.status < 500 && st.status != http.StatusTooManyRequests &&
		st.status != http.StatusRequestTimeout:
		e.Hint = "the registry's credentials are never sent there; try again, or contact the registry's operator"
	case st.status == http.StatusUnauthorized || st.status == http.StatusForbidden:
		e.Reason += ", " + s.identity()
		e.Hint = "check the name, or log in with an account that has access: docker login " + loginHost(s.at.host)
	case st.status == http.StatusNotFound:
		e.Hint = "check the image's name and tag, and that it has been pushed there"
	case st.status == http.StatusTooManyRequests:
		e.temporary = true
		e.Hint = "too many requests; wait" + afterText(st.after) +
			", log in for a higher limit, or use a mirror (registries.conf)"
	case st.status >= 500 || st.status == http.StatusRequestTimeout:
		e.temporary = true
		e.Hint = "the registry failed; try again later, or use a mirror (registries.conf)"
	default:
		e.Hint = "the registry does not accept this request; check that it is a registry and that the name is right"
	}
}

// tlsAlert is the Op of a net.OpError for a TLS alert from the other side.
const tlsAlert = "remote error"

// network explains a failure without an HTTP answer.
func (e *Error) network(s *session) {
	var (
		dns       *net.DNSError
		missing   *platformMissing
		refused   *refusedError
		cert      *tls.CertificateVerificationError
		transfer  *url.Error
		operation *net.OpError
	)
	switch {
	case errors.As(e.Cause, &missing):
		e.Reason, e.Hint = missing.text, "build for a platform that it has, or use another image"
		return
	case errors.As(e.Cause, &cert):
		e.Reason, e.environment = "its TLS certificate is not trusted: "+clean(cert.Err.Error()), true
		e.Hint = "add its CA certificate to a registry block (ca) or to certs.d, or set insecure = true for it in " +
			"registries.conf"
		return
	case errors.As(e.Cause, &operation) && operation.Op == tlsAlert:
		e.Reason, e.environment = "it does not accept this client's certificate: "+clean(operation.Err.Error()), true
		e.Hint = "add an accepted certificate and its key to certs.d as NAME.cert and NAME.key"
		return
	case strings.Contains(e.Cause.Error(), "server gave HTTP response to HTTPS client"):
		e.Reason, e.environment = "it speaks plain HTTP where HTTPS was expected", true
		e.Hint = "if that is intended, set insecure = true for it in registries.conf"
		return
	case errors.As(e.Cause, &dns):
		e.Reason, e.temporary = "its host name cannot be resolved: "+clean(dns.Error()), true
		e.Hint = "check the registry's name and this machine's DNS and network"
		return
	case errors.As(e.Cause, &operation):
		e.Reason, e.temporary = "it cannot be reached: "+clean(operation.Error()), true
	case errors.As(e.Cause, &refused):
		e.Reason, e.Hint = clean(refused.text), "the registry is misconfigured: contact its operator"
		return
	case errors.As(e.Cause, &transfer):
		e.Reason, e.temporary = clean(transfer.Err.Error()), retryable(e.Cause)
	default:
		e.Reason, e.temporary = clean(e.Cause.Error()), retryable(e.Cause)
	}
	e.Hint = "check the network, the registry and HTTPS_PROXY, then try again"
	if s.at.plain {
		e.Hint = "check that the registry is running; plain HTTP is used for loopback registries"
	}
}

// fromTransport converts go-containerregistry's error for an answer.
func fromTransport(err *transport.Error) *statusError {
	var reasons []string
	for _, d := range err.Errors {
		reasons = append(reasons, strings.TrimSuffix(string(d.Code)+": "+d.Message, ": "))
	}
	return &statusError{status: err.StatusCode, reason: clean(strings.Join(reasons, "; "))}
}

func afterText(after time.Duration) string {
	if after <= 0 {
		return ""
	}
	return " " + after.Round(time.Second).String()
}

// loginHost returns the name of a host for docker login.
func loginHost(host string) string {
	if host == "index.docker.io" {
		return "docker.io"
	}
	return host
}

// clean makes text from outside safe to show: one line, no control characters, bounded length.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return strings.TrimSpace(s)
}
