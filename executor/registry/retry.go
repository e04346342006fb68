package registry

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

// maxDrain bounds what is read of an answer that is thrown away, so that its connection can be used again.
const maxDrain = 64 << 10

// retrier is a transport that tries again what may pass: lost connections, answers of an overloaded or failing
// registry. Uploads of blobs are not tried again here, since their first bytes may have arrived.
type retrier struct {
	next    http.RoundTripper
	backoff func(n int) time.Duration
	maxWait time.Duration // the longest that a Retry-After is heeded
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

// hold keeps back an answer as long as it asks to, so that an upload is not begun anew before that.
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

// fresh is the request for one try, with a body that nobody has read from: also the first may be a second one of whoever
// asks, who got a new token.
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

// retryableStatus says whether an answer may be another one later.
func retryableStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout, 499, 522:
		return true
	}
	return false
}

// retryable says whether an error of a request or a transfer may not come again.
func retryable(err error) bool {
	var (
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		dns     *net.DNSError
		content *contentError
		status  *statusError
		ggcr    *transport.Error
		network net.Error
		told    *net.OpError
	)
	switch {
	case err == nil, errors.Is(err, context.Canceled), isRefused(err), errors.As(err, &cert), errors.As(err, &record), errors.As(err, &content):
		return false
	case errors.As(err, &told) && told.Op == tlsAlert:
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &status):
		return retryableStatus(status.status)
	case errors.As(err, &ggcr):
		return retryableStatus(ggcr.StatusCode) || ggcr.Temporary()
	}
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// retryAfter reads Retry-After, in seconds or as a date; 0 when there is none.
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
