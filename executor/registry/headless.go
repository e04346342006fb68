package registry

import (
	"net/http"
	"strings"
	"sync/atomic"
)

// headless is a transport for registries that answer HEAD with 405 or 501. It sends GET instead, and drops the content:
// of a blob it asks for one byte.
type headless struct {
	next http.RoundTripper
	// lacking is set once the registry refused HEAD and answered GET.
	lacking atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (h *headless) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodHead {
		return h.next.RoundTrip(req)
	}
	if h.lacking.Load() {
		return h.get(req)
	}
	res, err := h.next.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusMethodNotAllowed && res.StatusCode != http.StatusNotImplemented {
		return res, err
	}
	instead, err := h.get(req)
	if err != nil || instead.StatusCode != http.StatusOK && instead.StatusCode != http.StatusNotFound {
		if err == nil {
			instead.Body.Close()
		}
		return res, nil // the first answer says more
	}
	res.Body.Close()
	h.lacking.Store(true)
	return instead, nil
}

// get sends GET in place of HEAD. A redirect of a blob means that the registry has it.
func (h *headless) get(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Method = http.MethodGet
	blob := strings.Contains(req.URL.Path, "/blobs/")
	if blob {
		req.Header.Set("Range", "bytes=0-0")
	}
	res, err := h.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	redirected := res.StatusCode >= 300 && res.StatusCode < 400
	switch {
	case blob && (res.StatusCode == http.StatusPartialContent || redirected):
		res.StatusCode, res.Status, res.ContentLength = http.StatusOK, "200 OK", -1
		res.Header.Del("Content-Length")
		res.Header.Del("Location")
	case res.StatusCode != http.StatusOK:
		return res, nil // an error or a redirect keeps its content
	}
	res.Body.Close()
	res.Body = http.NoBody
	return res, nil
}
