package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
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
				t.Errorf("it waited %v; two pauses of 1 s, cut to %s, were asked for", w.all, cutTo)
			}
		})
	}
}

// cutTo is what Retry-After is cut to here.
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
		t.Error("a control character of the registry got through")
	}
}

// serveBlob answers blob requests with the content of damage, which sees the offset that is asked for.
func serveBlob(want []byte, serve func(w http.ResponseWriter, offset int)) func(http.ResponseWriter, *http.Request) bool {
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

// breakOff sends the bytes of an answer that promised more, and closes the connection.
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
	return content, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(content), Size: int64(len(content))}
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
		{"wrong digest", func(w http.ResponseWriter, _ int) { _, _ = w.Write(other) }, "do not have the digest " + desc.Digest.String()},
		{"too long", func(w http.ResponseWriter, _ int) { _, _ = w.Write(append(content, 'x')) }, "larger than the 32768 bytes"},
		{"never whole", func(w http.ResponseWriter, offset int) {
			if offset > 0 {
				breakOff(w, 206, len(content)-offset, nil)
			}
			breakOff(w, 200, len(content), content[:100])
		}, "broke off after 100 of 32768 bytes"},
		{"short", func(w http.ResponseWriter, offset int) {
			if offset > 0 {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_, _ = w.Write(content[:200])
		}, "broke off after 200 of 32768 bytes"},
		{"other range", func(w http.ResponseWriter, offset int) {
			if offset > 0 {
				w.Header().Set("Content-Range", "bytes 7-9/10")
				w.WriteHeader(206)
				return
			}
			breakOff(w, 200, len(content), content[:100])
		}, "sent others (bytes 7-9/10)"},
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
			contains(t, e, "no byte came for 50ms")
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

func TestRedirectCarriesNoCredentials(t *testing.T) {
	content, desc := blobOf(t, 1024)
	var leaked atomic.Value
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(r.Header.Get("Authorization"))
		}
		_, _ = w.Write(content)
	}))
	defer elsewhere.Close()
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "me" || password != "hunter22":
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
			w.WriteHeader(401)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, elsewhere.URL+"/storage", http.StatusTemporaryRedirect)
		default:
			w.WriteHeader(200)
		}
		return true
	})
	c := newTestClient(t, withKey(f, authn.AuthConfig{Username: "me", Password: "hunter22"}))
	got, err := readBlob(c, f.host+"/x:1", desc)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes: %v", len(got), err)
	}
	if v := leaked.Load(); v != nil {
		t.Errorf("the other host got %q", v)
	}
}

func withKey(f *fake, key authn.AuthConfig) func(*Options) {
	return func(o *Options) { o.Keychain = keys{f.host: key} }
}

func TestTokenFlow(t *testing.T) {
	var issued atomic.Int32
	var f *fake
	f = newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if user, password, _ := r.BasicAuth(); user != "me" || password != "hunter22" {
				w.WriteHeader(401)
				return true
			}
			fmt.Fprintf(w, `{"token":"bearer-%d"}`, issued.Add(1))
			return true
		}
		// The first token is no longer good when the manifest is asked for.
		good := fmt.Sprintf("Bearer bearer-%d", max(issued.Load(), 2))
		if r.URL.Path == "/v2/" || r.Header.Get("Authorization") != good {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s",scope="repository:x:pull"`, f.URL))
			w.WriteHeader(401)
			return true
		}
		return false
	})
	hook := f.hook
	f.on(nil)
	put(t, f, "x:1", newImage(t, 1))
	f.on(hook)
	c := newTestClient(t, withKey(f, authn.AuthConfig{Username: "me", Password: "hunter22"}))
	if _, err := c.Resolve(context.Background(), f.host+"/x:1", amd64); err != nil {
		t.Fatal(err)
	}
	if n := issued.Load(); n != 2 {
		t.Errorf("%d tokens were asked for, want one and one refresh", n)
	}

	f.on(hook)
	c = newTestClient(t, withKey(f, authn.AuthConfig{Username: "me", Password: "wrong-one"}))
	_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
	e := asError(t, err)
	if e.Status != 401 || e.Temporary() {
		t.Errorf("status %d, temporary %v", e.Status, e.Temporary())
	}
	contains(t, e, "asked with the credentials of me", "docker login "+f.host)
	if strings.Contains(e.Error(), "wrong-one") {
		t.Error("the password is in the message")
	}
	_, err = newTestClient(t).Resolve(context.Background(), f.host+"/x:1", amd64)
	contains(t, asError(t, err), "no credentials for "+f.host)
}

func TestTokenServiceElsewhere(t *testing.T) {
	var got atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Method == http.MethodPost {
			got.Add(1)
		}
		fmt.Fprint(w, `{"token":"t"}`)
	}))
	defer thief.Close()
	f := newFake(t, nil)
	for name, key := range map[string]authn.AuthConfig{
		"password": {Username: "me", Password: "hunter22"}, "identity token": {IdentityToken: "hunter22"},
	} {
		for _, realm := range []string{thief.URL + "/token", f.URL + "/forward"} {
			t.Run(name, func(t *testing.T) {
				f.on(func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path == "/forward" {
						http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
						return true
					}
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="s"`, realm))
					w.WriteHeader(401)
					return true
				})
				_, err := newTestClient(t, withKey(f, key)).Resolve(context.Background(), f.host+"/x:1", amd64)
				e := asError(t, err)
				if got.Load() != 0 {
					t.Error("credentials reached a token service over plain HTTP on another host")
				}
				if strings.Contains(e.Error(), "hunter22") {
					t.Errorf("the secret is in the message: %s", e)
				}
			})
		}
	}
}

func TestReflectedSecretIsNotShown(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
			return true
		}
		_, password, _ := r.BasicAuth()
		w.WriteHeader(403)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"bad password %s, header %s"}]}`, password, r.Header.Get("Authorization"))
		return true
	})
	c := newTestClient(t, withKey(f, authn.AuthConfig{Username: "me", Password: "hunter22"}))
	_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
	e := asError(t, err)
	contains(t, e, "403", "DENIED", "***")
	for _, secret := range []string{"hunter22", "bWU6aHVudGVyMjI"} {
		if strings.Contains(fmt.Sprintf("%v %+v", e, e.Reason), secret) {
			t.Errorf("%s is in %s", secret, e)
		}
	}
}

func TestCredentialHelperFails(t *testing.T) {
	f := newFake(t, nil)
	useHelper(t, f.host, "echo '{\"Secret\":\"hunter22\"}'\necho broken keyring >&2\nexit 3\n")
	c := newTestClient(t, func(o *Options) { o.Keychain = nil })
	_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
	e := asError(t, err)
	contains(t, e, "credentials for "+f.host+" cannot be read", "docker login "+f.host)
	if strings.Contains(e.Error(), "hunter22") {
		t.Errorf("the helper's output is in %s", e)
	}
	if len(f.requests()) != 0 {
		t.Error("the registry was asked without the credentials that are configured for it")
	}
}

// TestCredentialHelperHangs: a helper that never answers is waited for once, and not forever.
func TestCredentialHelperHangs(t *testing.T) {
	f := newFake(t, nil)
	dir := useHelper(t, f.host, "exec sleep 5 2>/dev/null\n")
	stuck := newKeychain([]string{filepath.Join(dir, "config.json")}, 200*time.Millisecond)
	c := newTestClient(t, func(o *Options) { o.Keychain = stuck })
	for range 2 {
		_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
		contains(t, asError(t, err), "credentials for "+f.host+" cannot be read", "said nothing for 200ms")
	}
	if len(f.requests()) != 0 {
		t.Error("the registry was asked without the credentials that are configured for it")
	}
}

// useHelper has a shell script give the credentials for a host; the folder of its configuration is what is given.
func useHelper(t *testing.T, host, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-own"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"credHelpers":{%q:"own"}}`, host), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

func TestPushRetriesUpload(t *testing.T) {
	f := newFake(t, nil)
	var failed atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && failed.Add(1) <= 2 {
			_, _ = io.CopyN(io.Discard, r.Body, 100)
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	image := newImage(t, 1)
	if err := newTestClient(t).Push(context.Background(), []PushImage{{Refs: []string{f.host + "/x:1"}, Image: image}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := newTestClient(t).Resolve(context.Background(), f.host+"/x:1", amd64); err != nil {
		t.Error(err)
	}
}

func TestPushMovesNoTagWhenOneImageFails(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2/bad/") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"read only"}]}`)
			return true
		}
		return false
	})
	err := newTestClient(t).Push(context.Background(), []PushImage{
		{Refs: []string{f.host + "/good:1"}, Image: newImage(t, 1)}, {Refs: []string{f.host + "/bad:1"}, Image: newImage(t, 1)},
	}, nil)
	contains(t, asError(t, err), f.host+"/bad", "403", "read only", "docker login")
	if n := f.count("PUT", "/manifests/"); n != 0 {
		t.Errorf("%d manifests were sent", n)
	}
}

func TestPushMountsFromBase(t *testing.T) {
	f := newFake(t, nil)
	base := newImage(t, 2)
	put(t, f, "base:1", base)
	c := newTestClient(t)
	if _, err := c.Resolve(context.Background(), f.host+"/base:1", amd64); err != nil {
		t.Fatal(err)
	}
	// The test registry keeps blobs for all repositories together, so that it must be told to miss and mount them.
	var mounted, missed atomic.Int32
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/blobs/"):
			missed.Add(1)
			w.WriteHeader(http.StatusNotFound)
			return true
		case r.Method == http.MethodPost && r.URL.Query().Get("mount") != "":
			if from := r.URL.Query().Get("from"); from == "base" && strings.HasPrefix(r.URL.Path, "/v2/app/") || from == "app" {
				mounted.Add(1)
				w.WriteHeader(http.StatusCreated)
				return true
			}
		}
		return false
	})
	refs := []string{f.host + "/app:1", f.host + "/app:2", f.host + "/copy:1"}
	if err := c.Push(context.Background(), []PushImage{{Refs: refs, Image: base}}, nil); err != nil {
		t.Fatal(err)
	}
	// Two layers and the config, into two repositories: only the config's bytes are sent, once.
	if n := f.count("PATCH", ""); n != 1 || mounted.Load() != 5 || missed.Load() != 6 {
		t.Errorf("%d sent, %d mounted, %d looked for; want 1, 5, 6", n, mounted.Load(), missed.Load())
	}
}
