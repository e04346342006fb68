package fetch

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestCredentialsFollowNoRedirect: credentials for a git server are not sent to a host to which it redirects.
func TestCredentialsFollowNoRedirect(t *testing.T) {
	var mu sync.Mutex
	got := map[string]bool{} // Authorization headers, by server
	seen := func(server string, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got[server+" "+r.Header.Get("Authorization")] = true
	}
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen("other", r)
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		packet := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
		_, _ = fmt.Fprint(w, packet("# service=git-upload-pack\n")+"0000"+
			packet("version 2\n")+packet("ls-refs\n")+"0000")
	}))
	defer other.Close()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen("server", r)
		http.Redirect(w, r, other.URL+r.URL.String(), http.StatusFound)
	}))
	defer server.Close()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(roots, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	f := &Fetcher{
		Env:  []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_SSL_CAINFO=" + roots},
		Auth: "basic hunter22", Host: strings.TrimPrefix(server.URL, "https://"),
	}
	_, err := f.Commit(t.Context(), Repository{Remote: server.URL + "/repo.git", Ref: "main"})
	want := "follows no redirect with credentials, so use the URL to which " + f.Host
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, want %q", err, want)
	}
	if !got["server basic hunter22"] {
		t.Errorf("the server did not get the credentials: %v", got)
	}
	if got["other basic hunter22"] {
		t.Errorf("the redirect's target got the credentials: %v", got)
	}
}
