package registry

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trial is one failure of a registry, and its expected outcome.
type trial struct {
	name string
	set  func(t *testing.T, f *front, other *stranger)
	// pulls and pushes tell whether the client can succeed by retrying.
	pulls, pushes bool
	stall         time.Duration // 0: long
	check         func(t *testing.T, w *waits, err error)
}

// stranger is another host. It records the secrets that reach it.
type stranger struct {
	*httptest.Server
	mu     sync.Mutex
	got    int
	leaked []string
	next   http.Handler
}

func newStranger(t *testing.T) *stranger {
	s := &stranger{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		said := fmt.Sprint(r.Header, r.URL, string(body))
		s.mu.Lock()
		s.got++
		for _, secret := range []string{password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password)),
			"Bearer", "Basic"} {
			if strings.Contains(said, secret) {
				s.leaked = append(s.leaked, r.Method+" "+r.URL.Path+" "+secret)
			}
		}
		next := s.next
		s.mu.Unlock()
		if next == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// once returns a function that reports true the first time for each key.
func once() func(key string) bool {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(key string) bool {
		mu.Lock()
		defer mu.Unlock()
		was := seen[key]
		seen[key] = true
		return !was
	}
}

// firstEach answers the first request of each kind with a status.
func firstEach(status int, after string) func(http.ResponseWriter, *http.Request) bool {
	first := once()
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !first(kindOf(r)) {
			return false
		}
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		return true
	}
}

// kindOf returns the kind of a request. Uploads have a new path each time, which is cut off.
func kindOf(r *http.Request) string {
	path, _, _ := strings.Cut(r.URL.Path, "/blobs/uploads/")
	return r.Method + " " + path
}

// reset closes a connection with a TCP reset.
func reset(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func isContent(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.Contains(r.URL.Path, "/blobs/") ||
		strings.Contains(r.URL.Path, "/manifests/"))
}

// flip changes a bit in the middle of an answer.
func flip(res *http.Response) error {
	if res.Request.Method != http.MethodGet || res.StatusCode >= 300 || !isContent(res.Request) {
		return nil
	}
	raw, err := io.ReadAll(res.Body)
	if err != nil || len(raw) == 0 {
		return err
	}
	raw[len(raw)/2] ^= 1
	res.Body = io.NopCloser(bytes.NewReader(raw))
	return nil
}

func hang(r *http.Request) { <-r.Context().Done() }

// trials returns all trials.
func trials() []trial {
	return slices.Concat(networkTrials(), contentTrials(), slowTrials(), []trial{redirectTrial()}, hostTrials())
}

// networkTrials returns trials of failing requests and lost connections.
func networkTrials() []trial {
	return []trial{
		{name: "nothing", set: func(*testing.T, *front, *stranger) {}, pulls: true, pushes: true},
		{name: "503", set: func(_ *testing.T, f *front, _ *stranger) { f.breaks(firstEach(503, ""), nil, nil) },
			pulls: true, pushes: true},
		{name: "429 with Retry-After", set: func(_ *testing.T, f *front,
			_ *stranger) {
			f.breaks(firstEach(429, "7"), nil, nil)
		}, pulls: true, pushes: true,
			check: func(t *testing.T, w *waits, _ error) {
				seven := 0
				for _, d := range w.all {
					if d == 7*time.Second {
						seven++
					}
				}
				if seven == 0 {
					t.Errorf("no wait of the requested 7 s: %v", w.all)
				}
			}},
		{name: "429 for ever, an hour each", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}, nil, nil)
		}},
		{name: "resets", set: func(_ *testing.T, f *front, _ *stranger) {
			first := once()
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if first(kindOf(r)) {
					reset(w)
					return true
				}
				return false
			}, nil, nil)
		}, pulls: true, pushes: true},
		{name: "truncation", set: func(_ *testing.T, f *front, _ *stranger) {
			first := once()
			f.breaks(nil, func(res *http.Response) error {
				if isContent(res.Request) && res.StatusCode < 300 && first(res.Request.URL.Path) {
					raw, err := io.ReadAll(res.Body)
					if err != nil {
						return err
					}
					// Content-Length stays, so the proxy breaks off
					res.Body = io.NopCloser(bytes.NewReader(raw[:len(raw)/2]))
				}
				return nil
			}, nil)
		}, pulls: true, pushes: true},
	}
}

// contentTrials returns trials with wrong bytes or headers.
func contentTrials() []trial {
	return []trial{
		{name: "wrong content", set: func(_ *testing.T, f *front, _ *stranger) { f.breaks(nil, flip, nil) },
			pushes: true},
		{name: "wrong content sent", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(nil, nil, func(r *http.Request) {
				if r.Method != http.MethodPatch && r.Method != http.MethodPut || r.ContentLength <= 0 {
					return
				}
				raw, _ := io.ReadAll(r.Body)
				if len(raw) > 0 {
					raw[len(raw)/2] ^= 1
				}
				r.Body = io.NopCloser(bytes.NewReader(raw))
			})
		}, pulls: true},
		{name: "lying digest headers", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(nil, func(res *http.Response) error {
				if res.Header.Get("Docker-Content-Digest") != "" && res.Request.Method != http.MethodPut {
					res.Header.Set("Docker-Content-Digest", someDigest)
				}
				return nil
			}, nil)
		}, pulls: true, pushes: true},
	}
}

// slowTrials returns trials in which transfers stop or nearly stop.
func slowTrials() []trial {
	return []trial{
		{name: "stalls", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
				if isContent(r) || r.Method == http.MethodPatch {
					_, _ = io.Copy(io.Discard, r.Body)
					hang(r)
					return true
				}
				return false
			}, nil, nil)
		}, stall: 50 * time.Millisecond},
		{name: "trickles", set: func(_ *testing.T, f *front, _ *stranger) {
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if !isContent(r) {
					return false
				}
				w.Header().Set("Content-Length", "9000")
				for r.Context().Err() == nil {
					_, _ = w.Write([]byte("x"))
					w.(http.Flusher).Flush()
					time.Sleep(5 * time.Millisecond)
				}
				return true
			}, nil, nil)
		}, pushes: true, stall: 50 * time.Millisecond},
	}
}

// redirectTrial returns a trial in which blobs are stored on another host.
func redirectTrial() trial {
	return trial{name: "redirects to another host", set: func(t *testing.T, f *front, other *stranger) {
		// storage that has what the registry has
		other.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			r.SetBasicAuth(user, password)
			if f.auth == authToken {
				r.Header.Set("Authorization", "Bearer "+
					f.token(t, strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")[0]))
			}
			f.back.ServeHTTP(w, r)
		})
		f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		}, nil, nil)
	}, pulls: true, pushes: true}
}

// hostTrials returns trials in which another host asks for content or credentials.
func hostTrials() []trial {
	return []trial{
		{name: "uploads sent to another host", set: func(_ *testing.T, f *front, other *stranger) {
			f.breaks(nil, func(res *http.Response) error {
				if at := res.Header.Get("Location"); res.Request.Method == http.MethodPost && at != "" {
					u, err := url.Parse(at)
					if err != nil {
						return err
					}
					res.Header.Set("Location", other.URL+u.RequestURI())
				}
				return nil
			}, nil)
		}, pulls: true},
		{name: "another host asks for credentials", set: func(_ *testing.T, f *front, other *stranger) {
			other.next = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="steal"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, "/v2/") && r.URL.Path != "/v2/" {
					http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
					return true
				}
				return false
			}, nil, nil)
		}, check: func(t *testing.T, _ *waits, err error) {
			if err == nil || !strings.Contains(err.Error(), ", where the content is stored, responded 401") ||
				strings.Contains(err.Error(), "docker login") {
				t.Errorf("the message must name the other host and not suggest a login: %v", err)
			}
		}},
		{name: "token realm elsewhere", set: func(_ *testing.T, f *front, other *stranger) {
			f.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, other.URL))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}, nil, nil)
		}},
	}
}
