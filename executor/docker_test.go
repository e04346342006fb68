package executor_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/docker"
)

func TestLoadIntoDocker(t *testing.T) {
	var loaded []byte
	answer := `{"stream":"Loaded image: api:latest\n"}`
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "OK") })
	mux.HandleFunc("POST /images/load", func(w http.ResponseWriter, r *http.Request) {
		loaded, _ = io.ReadAll(r.Body)
		io.WriteString(w, answer)
	})
	sock := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(mux)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	t.Setenv("DOCKER_HOST", "unix://"+sock)
	b := built(t, "api", "amd64", config.Attrs{"type": "docker"})
	if _, err := executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "x.tar")
	mustWrite(t, p, string(loaded))
	if _, err := tarball.ImageFromPath(p, nil); err != nil {
		t.Error(err)
	}

	answer = `{"errorDetail":{"message":"no space left"},"error":"no space left"}`
	_, err = executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{})
	var de *docker.Error
	if !errors.As(err, &de) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("err = %v", err)
	}
	t.Setenv("DOCKER_HOST", "unix:///nowhere.sock")
	_, err = executor.Export(context.Background(), []executor.Built{b}, executor.ExportOptions{})
	if !errors.As(err, &de) || !strings.Contains(err.Error(), "cannot connect") {
		t.Errorf("err = %v", err)
	}
}
