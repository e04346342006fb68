package registry

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

func TestRedirectSendsNoCredentials(t *testing.T) {
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
		// The first token is no longer valid when the manifest is requested.
		good := fmt.Sprintf("Bearer bearer-%d", max(issued.Load(), 2))
		if r.URL.Path == "/v2/" || r.Header.Get("Authorization") != good {
			challenge := fmt.Sprintf(`Bearer realm="%s/token",service="s",scope="repository:x:pull"`, f.URL)
			w.Header().Set("WWW-Authenticate", challenge)
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
		t.Errorf("%d tokens were requested, want one and one refresh", n)
	}

	f.on(hook)
	c = newTestClient(t, withKey(f, authn.AuthConfig{Username: "me", Password: "wrong-one"}))
	_, err := c.Resolve(context.Background(), f.host+"/x:1", amd64)
	e := asError(t, err)
	if e.Status != 401 || e.Temporary() {
		t.Errorf("status %d, temporary %v", e.Status, e.Temporary())
	}
	contains(t, e, "using the credentials of me", "docker login "+f.host)
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
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"bad password %s, header %s"}]}`, password,
			r.Header.Get("Authorization"))
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
