package docker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listen returns a socket on which answer handles connections.
func listen(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: answer}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return "unix://" + path
}

// writeContext writes the file of a docker context, and returns the configuration directory.
func writeContext(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	config := t.TempDir()
	dir := filepath.Join(config, "contexts", "meta", fmt.Sprintf("%x", sha256.Sum256([]byte(name))))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "meta.json"), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestErrorsSayWhatToDo shows that an engine that cannot be found or reached gives an *Error which says that, and what
// to do.
func TestErrorsSayWhatToDo(t *testing.T) {
	certs := t.TempDir()
	if err := os.WriteFile(filepath.Join(certs, "ca.pem"), []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	tls := map[string]string{"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1"}
	with := func(m map[string]string, name, value string) map[string]string {
		out := map[string]string{name: value}
		for k, v := range m {
			out[k] = v
		}
		return out
	}
	for _, test := range []struct {
		env         map[string]string
		why, remedy string
	}{
		{map[string]string{"DOCKER_HOST": "unix:///nonexistent/s"}, "no such file", "start it"},
		{map[string]string{"DOCKER_HOST": "tcp://127.0.0.1:1"}, "connection refused", "start it"},
		{map[string]string{"DOCKER_HOST": "ssh://host"}, `"ssh" addresses`, "use unix://"},
		{map[string]string{"DOCKER_HOST": "tcp://%zz"}, "not a URL", "use unix://"},
		{map[string]string{"DOCKER_CONTEXT": "x", "DOCKER_CONFIG": t.TempDir()}, "does not exist", "docker context ls"},
		{map[string]string{"DOCKER_CONTEXT": "x", "DOCKER_CONFIG": writeContext(t, "x", "{", 0o600)},
			"unexpected end", "docker context create"},
		{map[string]string{"DOCKER_CONTEXT": "x", "DOCKER_CONFIG": writeContext(t, "x", "{}", 0o600)},
			"no docker endpoint", "docker context use"},
		{with(tls, "DOCKER_CERT_PATH", t.TempDir()), "ca.pem", "DOCKER_CERT_PATH"},
		{with(tls, "DOCKER_CERT_PATH", certs), "contains no certificate", "replace it"},
		{map[string]string{"DOCKER_HOST": listen(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		})}, "503", "restart it"},
		{map[string]string{"DOCKER_HOST": listen(t, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		})}, "no answer", "restart it"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		c, err := find("", func(name string) string { return test.env[name] })
		if err == nil {
			err = c.ping(ctx)
		}
		cancel()
		var e *Error
		if !errors.As(err, &e) || !e.Unreachable {
			t.Errorf("%v: not an unreachable engine: %v", test.env, err)
			continue
		}
		text, todo, _ := strings.Cut(err.Error(), "; ")
		if !strings.Contains(text, test.why) || !strings.Contains(todo, test.remedy) {
			t.Errorf("%v: %v\nwant %q and %q", test.env, err, test.why, test.remedy)
		}
	}
}

// TestLoadErrors shows the difference between an engine that ends during a load and one that rejects the image.
func TestLoadErrors(t *testing.T) {
	for text, answer := range map[string]http.HandlerFunc{
		"connection lost": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"stream":`)
			panic(http.ErrAbortHandler)
		},
		"bad image": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"errorDetail":{"message":"bad image"}}`)
		},
		"no space": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"message":"no space"}`)
		},
	} {
		host := listen(t, answer)
		c, err := find("", func(name string) string { return map[string]string{"DOCKER_HOST": host}[name] })
		if err != nil {
			t.Fatal(err)
		}
		err = c.Load(t.Context(), strings.NewReader("tar"))
		var e *Error
		if !errors.As(err, &e) || e.Unreachable != (text == "connection lost") || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
