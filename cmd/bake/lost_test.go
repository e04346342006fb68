package main

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded"
)

// mute is a proxy of a daemon that can stop forwarding while connections stay open, as a broken network does.
type mute struct {
	address string
	silent  atomic.Bool
}

// muteTo starts a proxy of a daemon.
func muteTo(t *testing.T, d *daemon) *mute {
	t.Helper()
	m := &mute{address: "unix://" + filepath.Join(shortDir(t), "m")}
	l, err := net.Listen("unix", strings.TrimPrefix(m.address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", strings.TrimPrefix(d.address, "unix://"))
			if err != nil {
				near.Close()
				continue
			}
			go m.pass(near, far)
			go m.pass(far, near)
		}
	}()
	return m
}

// pass copies until either side ends. While m is silent it drops what it reads.
func (m *mute) pass(to io.WriteCloser, from io.Reader) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if m.silent.Load() {
			n = 0
		}
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

// TestSilentBuilder shows that a builder that stops answering on an open connection is given up, and that another one
// does its work.
func TestSilentBuilder(t *testing.T) {
	bases := serveBases(t)
	way := muteTo(t, startDaemon(t, ""))
	other := startDaemon(t, "")
	c := newCLI(t)
	c.write(t, "bake.hcl", "target \"default\" {\n  dockerfile-inline = \"FROM "+bases+
		"/busybox:1\\nRUN echo go; sleep 3; echo done\"\n}\n")
	a := &app{environ: map[string]string{"BAKE_CACHE_DIR": c.cache}, stdin: strings.NewReader(""), stdout: io.Discard,
		stderr: io.Discard, dir: c.dir}
	project, err := a.loadProject(t.Context(), projectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.open(false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	graph, err := s.plan(t.Context(), project, runOptions{})
	if err != nil {
		t.Fatal(err)
	}
	engine := buildkitd.New(buildkitd.Options{
		Builders: []buildkitd.Builder{{Address: way.address}, {Address: other.address}}, Blobs: layerBlobs{s.store},
		Store: embedded.ImageStore(s.store, cache.Origin{}), CacheFrom: map[string][]config.Attrs{},
		Patience: 10 * time.Second,
	})
	said := 0
	report, err := engine.Run(untilDeadline(t), graph, executor.Options{Dir: c.dir, Events: func(e executor.Event) {
		if e.Kind == executor.KindLog && strings.Contains(string(e.Log), "go") {
			said++
			way.silent.Store(true)
		}
	}})
	if err != nil || len(report.Images) != 1 || said != 2 {
		t.Fatalf("%d builders started the step, %d images, %v; want 2 and 1", said, len(report.Images), err)
	}
}
