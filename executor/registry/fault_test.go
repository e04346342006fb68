package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestRetryHeedsRetryAfter(t *testing.T) {
	for _, status := range []int{429, 500, 502, 503} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			f := newFake(t, nil)
			put(t, f, "x:1", newImage(t, 1))
			var left atomic.Int32
			left.Store(2)
			f.on(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") || left.Add(-1) < 0 {
					return false
				}
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(status)
				return true
			})
			var w waits
			c := newTestClient(t, func(o *Options) { o.MaxWait, o.Wait = cutTo, w.wait })
			if _, err := c.Resolve(context.Background(), f.host+"/x:1", amd64); err != nil {
				t.Fatal(err)
			}
			if want := []time.Duration{cutTo, cutTo}; !slices.Equal(w.all, want) {
				t.Errorf("waited %v, want two waits of 1 s cut to %s", w.all, cutTo)
			}
		})
	}
}

// cutTo is MaxWait in TestRetryHeedsRetryAfter.
const cutTo = 30 * time.Millisecond

func TestRetryEnds(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow \u001b[31mdown"}]}`)
		return true
	})
	_, err := newTestClient(t).Resolve(context.Background(), f.host+"/x:1", amd64)
	e := asError(t, err)
	if e.Status != 429 || !e.Temporary() || len(f.requests()) != maxTries {
		t.Errorf("status %d, temporary %v, %d requests", e.Status, e.Temporary(), len(f.requests()))
	}
	contains(t, e, "429", "TOOMANYREQUESTS: slow [31mdown", "mirror")
	if strings.ContainsRune(e.Error(), 0x1b) {
		t.Error("the message has a control character from the registry")
	}
}

// serveBlob returns a hook that answers requests for blobs with serve, which gets the requested offset.
func serveBlob(want []byte, serve func(w http.ResponseWriter, offset int)) func(http.ResponseWriter,
	*http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		offset := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &offset); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, len(want)-1, len(want)))
		}
		serve(w, offset)
		return true
	}
}

// breakOff sends fewer bytes than promised and closes the connection.
func breakOff(w http.ResponseWriter, status, promised int, content []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(promised))
	w.WriteHeader(status)
	_, _ = w.Write(content)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func blobOf(t *testing.T, size int) ([]byte, ocispecs.Descriptor) {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	return content, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(content),
		Size: int64(len(content))}
}

func readBlob(c *Client, ref string, desc ocispecs.Descriptor) ([]byte, error) {
	r, err := c.Blob(context.Background(), ref, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestBlobResumes(t *testing.T) {
	content, desc := blobOf(t, 64<<10)
	for _, c := range []struct {
		name  string
		whole bool // answer a range with all
	}{{"range", false}, {"whole", true}} {
		t.Run(c.name, func(t *testing.T) {
			var answers atomic.Int32
			f := newFake(t, serveBlob(content, func(w http.ResponseWriter, offset int) {
				n := int(answers.Add(1))
				status := http.StatusPartialContent
				if offset == 0 || c.whole {
					status, offset = http.StatusOK, 0
					w.Header().Del("Content-Range")
				}
				if n <= 7 { // more than the tries of one request: each makes progress
					breakOff(w, status, len(content)-offset, content[offset:min(len(content), n*5000)])
				}
				w.WriteHeader(status)
				_, _ = w.Write(content[offset:])
			}))
			got, err := readBlob(newTestClient(t), f.host+"/x:1", desc)
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes of %d: %v", len(got), len(content), err)
			}
			for k, r := range f.requests()[1:] {
				if want := fmt.Sprintf("bytes=%d-", k*5000); k > 0 && r.rng != want {
					t.Errorf("request %d asks for %q, want %q", k, r.rng, want)
				}
			}
		})
	}
}

func TestBlobFaults(t *testing.T) {
	content, desc := blobOf(t, 32<<10)
	other := bytes.ToUpper(content)
	for _, c := range []struct {
		name  string
		serve func(w http.ResponseWriter, offset int)
		text  string
	}{
		{"wrong digest", func(w http.ResponseWriter, _ int) { _, _ = w.Write(other) }, "does not match the digest " +
			desc.Digest.String()},
		{"too long", func(w http.ResponseWriter, _ int) { _, _ = w.Write(append(content, 'x')) },
			"larger than the 32768 bytes"},
		{"never whole", func(w http.ResponseWriter, offset int) {
			if offset > 0 {
				breakOff(w, 206, len(content)-offset, nil)
			}
			breakOff(w, 200, len(content), content[:100])
		}, "connection lost after 100 of 32768 bytes"},
		{"short", func(w http.ResponseWriter, offset int) {
			if offset > 0 {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_, _ = w.Write(content[:200])
		}, "connection lost after 200 of 32768 bytes"},
		{"other range", func(w http.ResponseWriter, offset int) {
			if offset > 0 {
				w.Header().Set("Content-Range", "bytes 7-9/10")
				w.WriteHeader(206)
				return
			}
			breakOff(w, 200, len(content), content[:100])
		}, "wrong range: expected bytes from 100, got bytes 7-9/10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, serveBlob(content, c.serve))
			_, err := readBlob(newTestClient(t), f.host+"/x:1", desc)
			contains(t, asError(t, err), c.text, desc.Digest.String(), f.host+"/x")
		})
	}
}

func TestStall(t *testing.T) {
	content, desc := blobOf(t, 32<<10)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	hang := func(r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	for _, when := range []string{"before the answer", "within the blob"} {
		t.Run(when, func(t *testing.T) {
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				if when == "within the blob" && r.Header.Get("Range") == "" {
					_, _ = w.Write(content[:1000])
					w.(http.Flusher).Flush()
				}
				hang(r)
				return true
			})
			c := newTestClient(t, func(o *Options) { o.Stall = 50 * time.Millisecond })
			start := time.Now()
			_, err := readBlob(c, f.host+"/x:1", desc)
			e := asError(t, err)
			contains(t, e, "no data received for 50ms")
			if d := time.Since(start); !e.Temporary() || d > 5*time.Second {
				t.Errorf("temporary %v after %s", e.Temporary(), d)
			}
		})
	}
	t.Run("a slow reader is no stall", func(t *testing.T) {
		f := newFake(t, serveBlob(content, func(w http.ResponseWriter, _ int) { _, _ = w.Write(content) }))
		c := newTestClient(t, func(o *Options) { o.Stall = 40 * time.Millisecond })
		r, err := c.Blob(context.Background(), f.host+"/x:1", desc)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		time.Sleep(120 * time.Millisecond)
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Error(err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		f := newFake(t, func(_ http.ResponseWriter, r *http.Request) bool { hang(r); return true })
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := newTestClient(t).Resolve(ctx, f.host+"/x:1", amd64); err != context.Canceled {
			t.Errorf("want the cancellation itself, got %v", err)
		}
	})
}
