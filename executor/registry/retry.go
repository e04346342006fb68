package registry

// Requests are retried in three places, so that each retry repeats as little as possible:
//   - retrier repeats single requests: lost connections, and answers of an overloaded or failing registry. It does not
//     repeat the body of an upload (PATCH), whose first bytes the registry may have stored.
//   - blob.retry continues a download (blob.go).
//   - Client.attempt starts an upload again, from its first byte (pushstages.go).
//
// Every wait is bounded: maxTries tries, maxStalls stalls, MaxWait for a Retry-After, and the context. Without these
// bounds, a registry could block a build for hours (TestRetryEnds, TestRetryHeedsRetryAfter).

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// maxDrain bounds how many bytes of a discarded answer are read, so that its connection can be reused.
const maxDrain = 64 << 10

// retrier is a transport that retries temporary failures.
type retrier struct {
	next    http.RoundTripper
	backoff func(n int) time.Duration
	maxWait time.Duration // bounds the time of a Retry-After header
	wait    func(ctx context.Context, d time.Duration) error
}

// RoundTrip implements http.RoundTripper.
func (r *retrier) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.GetBody != nil {
		defer req.Body.Close()
	}
	stalls := 0
	for n := 1; ; n++ {
		attempt, err := fresh(req)
		if err != nil {
			return nil, err
		}
		res, err := r.next.RoundTrip(attempt)
		var stall *stallError
		if errors.As(err, &stall) {
			stalls++
		}
		if n >= maxTries || stalls >= maxStalls || ctx.Err() != nil {
			return res, err
		}
		if !repeatable(req) {
			return res, r.hold(ctx, res, err)
		}
		pause := r.backoff(n)
		switch {
		case err != nil && !retryable(err):
			return nil, err
		case err == nil && !retryableStatus(res.StatusCode):
			return res, nil
		case err == nil:
			if after := retryAfter(res); after > 0 {
				pause = min(after, r.maxWait)
			}
			_, _ = io.CopyN(io.Discard, res.Body, maxDrain)
			res.Body.Close()
		}
		if err := r.wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// hold delays an answer by its Retry-After, so that the caller does not restart an upload before that.
func (r *retrier) hold(ctx context.Context, res *http.Response, err error) error {
	if err != nil || !retryableStatus(res.StatusCode) {
		return err
	}
	if err := r.wait(ctx, min(retryAfter(res), r.maxWait)); err != nil {
		res.Body.Close()
		return err
	}
	return nil
}

// fresh returns the request for one try, with an unread body. Even the first try here may be a repetition by the
// caller, after it renewed its token.
func fresh(req *http.Request) (*http.Request, error) {
	if req.GetBody == nil {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	again.Body = body
	return again, nil
}

func repeatable(req *http.Request) bool {
	noBody := req.Body == nil || req.Body == http.NoBody
	return req.Method != http.MethodPatch && (noBody || req.GetBody != nil)
}

// retryableStatus reports whether another try may get another status.
func retryableStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout, 499, 522:
		return true
	}
	return false
}

// retryable reports whether another try may succeed.
func retryable(err error) bool {
	var (
		cert      *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		content   *contentError
		status    *statusError
		ggcr      *transport.Error
		network   net.Error
		operation *net.OpError
	)
	switch {
	case err == nil, errors.Is(err, context.Canceled), isRefused(err), errors.As(err, &cert), errors.As(err, &record),
		errors.As(err, &content):
		return false
	case errors.As(err, &operation) && operation.Op == tlsAlert:
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &status):
		return retryableStatus(status.status)
	case errors.As(err, &ggcr):
		return retryableStatus(ggcr.StatusCode) || ggcr.Temporary()
	}
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed)
}

// retryAfter returns the time of the Retry-After header, in seconds or as a date, or 0.
func retryAfter(res *http.Response) time.Duration {
	value := res.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(0, min(seconds, 1<<30))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, time.Until(at))
}
