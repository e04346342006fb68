package planner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// fakeResolver answers for every image whose name has no "missing" in it.
type fakeResolver struct {
	calls atomic.Int64
	env   []string
}

func (f *fakeResolver) ResolveImage(_ context.Context, ref string, p ocispecs.Platform) (planner.ResolvedImage, error) {
	f.calls.Add(1)
	if strings.Contains(ref, "missing") {
		return planner.ResolvedImage{}, fmt.Errorf("manifest unknown")
	}
	image := ocispecs.Image{
		Platform: p,
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("layer of " + ref)}},
		Config:   ocispecs.ImageConfig{Env: append([]string{"PATH=/usr/bin:/bin"}, f.env...), WorkingDir: "/", Cmd: []string{"sh"}},
		History:  []ocispecs.History{{CreatedBy: "ADD rootfs"}},
	}
	config, err := json.Marshal(image)
	return planner.ResolvedImage{Ref: ref, Digest: digest.FromString(ref), Config: config, Layers: 1}, err
}

// amd64 makes plans the same on every machine.
func amd64() ocispecs.Platform { return ocispecs.Platform{OS: "linux", Architecture: "amd64"} }

// write puts files below dir.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// project makes a project whose targets are all requested in the order given.
func project(dir string, targets ...*config.Target) *config.Project {
	p := &config.Project{Dir: dir, Targets: map[string]*config.Target{}}
	for _, t := range targets {
		p.Targets[t.Name] = t
		p.Requested = append(p.Requested, t.Name)
	}
	return p
}

func TestPlanSlice(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"Dockerfile": "FROM alpine AS base\nRUN apk add git\nFROM base\nWORKDIR /app\nCOPY --link src /app\nENV A=1\nCMD [\"a\"]\n",
	})
	g, err := planner.Plan(t.Context(), project(dir, &config.Target{Name: "api"}), planner.Options{Resolver: &fakeResolver{}, Platform: amd64()})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range g.Steps {
		t.Log(s.Digest.Encoded()[:8], s.Name, s.Source, s.Targets, s.Op.GetSource())
	}
	t.Logf("%+v %s", g.Images[0], g.Images[0].Config)
}
