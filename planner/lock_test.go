package planner_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// lockedDockerfile names every kind of source that a lock can pin, in every possible way.
const lockedDockerfile = `ARG V=1.26
FROM golang:${V} AS build
FROM go AS other
RUN --mount=type=bind,from=tools:1,target=/x --mount=from=go,target=/y true
FROM alpine:3@sha256:4444444444444444444444444444444444444444444444444444444444444444
COPY --from=build / /a
COPY --from=other / /b
COPY --from=busybox:1 / /c
COPY --from=named / /d
ADD https://github.com/acme/proto.git#main:api /e
ADD --checksum=sha256:5555555555555555555555555555555555555555555555555555555555555555 https://example.com/has.tgz /f
ADD https://user:secret@example.com/tool.tgz /g
`

func hexDigest(c string) digest.Digest { return digest.Digest("sha256:" + strings.Repeat(c, 64)) }

func lockedProject(t *testing.T) *config.Project {
	dir := t.TempDir()
	write(t, dir, map[string]string{"Dockerfile": lockedDockerfile})
	p := project(dir, &config.Target{Name: "t", Context: ".",
		Contexts: map[string]string{"named": "docker-image://debian:1"}})
	p.Bases = map[string]config.Base{"go": {Name: "go", Image: "registry.example.com/go:1",
		Range: config.Range{File: "bake.hcl", Line: 3}}}
	return p
}

func fullLock() *config.Lock {
	l := config.NewLock()
	for i, ref := range []string{"docker.io/library/golang:1.26", "registry.example.com/go:1",
		"docker.io/library/tools:1", "docker.io/library/busybox:1", "docker.io/library/debian:1"} {
		l.Images[ref] = config.ImagePin{Digest: hexDigest(fmt.Sprint(i))}
	}
	l.Images["registry.example.com/go:1"] = config.ImagePin{Digest: hexDigest("1"),
		From: "registry.example.com/mirror/go"}
	l.Git["https://github.com/acme/proto.git#main"] = strings.Repeat("a", 40)
	l.HTTP["https://user:xxxxx@example.com/tool.tgz"] = hexDigest("6")
	return l
}

// TestLockIsApplied checks that a frozen plan resolves only digests, pins its sources, and records their use and
// locations.
func TestLockIsApplied(t *testing.T) {
	resolver := &recordingResolver{}
	opts := planner.Options{Resolver: resolver, Platform: amd64(), Lock: fullLock(), Frozen: true}
	g, err := planner.Plan(t.Context(), lockedProject(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range resolver.refs {
		if !strings.Contains(ref, "@sha256:") {
			t.Errorf("resolved %s", ref)
		}
	}
	var got []string
	for _, s := range g.Steps {
		if source := s.Op.GetSource(); source != nil {
			got = append(got, source.Identifier+" "+source.Attrs["http.checksum"])
		}
	}
	for _, b := range g.Bases {
		got = append(got, fmt.Sprint(b.Ref, " ", b.Locked, " ", b.From, " ", b.Places))
	}
	for _, s := range g.Sources {
		got = append(got, fmt.Sprint(s.Key, " ", s.Pin, " ", s.Identifiers))
	}
	slices.Sort(got)
	want := []string{
		"docker-image://docker.io/library/alpine:3@" + hexDigest("4").String() + " ",
		"docker-image://docker.io/library/busybox:1@" + hexDigest("3").String() + " ",
		"docker-image://docker.io/library/debian:1@" + hexDigest("4").String() + " ",
		"docker-image://docker.io/library/golang:1.26@" + hexDigest("0").String() + " ",
		"docker-image://docker.io/library/tools:1@" + hexDigest("2").String() + " ",
		"docker-image://registry.example.com/mirror/go@" + hexDigest("1").String() + " ",
		"docker.io/library/alpine:3@" + hexDigest("4").String() + " false  [Dockerfile:5]",
		"docker.io/library/busybox:1 true  [Dockerfile:8]",
		"docker.io/library/debian:1 true  [Dockerfile:9]",
		"docker.io/library/golang:1.26 true  [Dockerfile:2]",
		"docker.io/library/tools:1 true  [Dockerfile:4]",
		"git://github.com/acme/proto.git#" + strings.Repeat("a", 40) + ":api ",
		"https://example.com/has.tgz " + hexDigest("5").String(),
		"https://github.com/acme/proto.git#main " + strings.Repeat("a", 40) +
			" [git://github.com/acme/proto.git#main:api]",
		"https://user:secret@example.com/tool.tgz " + hexDigest("6").String(),
		"https://user:xxxxx@example.com/tool.tgz " + hexDigest("6").String() +
			" [https://user:secret@example.com/tool.tgz]",
		"registry.example.com/go:1 true registry.example.com/mirror/go [Dockerfile:3 Dockerfile:4]",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// recordingResolver records the references that it resolves.
type recordingResolver struct {
	fakeResolver
	mu   sync.Mutex
	refs []string
}

func (r *recordingResolver) ResolveImage(
	ctx context.Context, ref string, p ocispecs.Platform,
) (planner.ResolvedImage, error) {
	r.mu.Lock()
	r.refs = append(r.refs, ref)
	r.mu.Unlock()
	image, err := r.fakeResolver.ResolveImage(ctx, ref, p)
	if _, d, ok := strings.Cut(ref, "@"); ok {
		image.Digest = digest.Digest(d)
	}
	image.Platforms = []string{"linux/amd64", "linux/arm64"}
	return image, err
}

// TestLockErrors checks the errors for entries missing in a frozen plan, and for digests that contradict the lock.
func TestLockErrors(t *testing.T) {
	for want, change := range map[string]func(*config.Lock, *config.Project){
		"Dockerfile:2: bake.lock has no entry for docker.io/library/golang:1.26": func(l *config.Lock,
			_ *config.Project) {
			l.Delete("docker.io/library/golang:1.26")
		},
		"bake.lock has no entry for https://github.com/acme/proto.git#main": func(l *config.Lock,
			_ *config.Project) {
			clear(l.Git)
		},
		"bake.lock has no entry for https://user:xxxxx@example.com/tool.tgz": func(l *config.Lock,
			_ *config.Project) {
			clear(l.HTTP)
		},
		"digest " + hexDigest("4").String() + " differs from " + hexDigest("7").String() +
			" in bake.lock": func(l *config.Lock, _ *config.Project) {
			l.Images["docker.io/library/alpine:3"] = config.ImagePin{Digest: hexDigest("7")}
		},
		"checksum " + hexDigest("5").String() + " differs from " + hexDigest("7").String() +
			" in bake.lock": func(l *config.Lock, _ *config.Project) {
			l.HTTP["https://example.com/has.tgz"] = hexDigest("7")
		},
	} {
		lock, p := fullLock(), lockedProject(t)
		change(lock, p)
		opts := planner.Options{Resolver: &recordingResolver{}, Platform: amd64(), Lock: lock, Frozen: true}
		_, err := planner.Plan(t.Context(), p, opts)
		var locked *planner.LockError
		if err == nil || !errors.As(err, &locked) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	p := lockedProject(t)
	p.Bases["go"] = config.Base{Name: "go", Image: p.Bases["go"].Image,
		Platforms: []string{"linux/arm64/v8", "linux/s390x"}, Range: p.Bases["go"].Range}
	_, err := planner.Plan(t.Context(), p, planner.Options{Resolver: &recordingResolver{}, Platform: amd64()})
	want := "bake.hcl:3: base go requires platform linux/s390x, but registry.example.com/go:1 has only linux/amd64, " +
		"linux/arm64"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("want %q, got %v", want, err)
	}
}

// TestPinDockerfile checks that pinning changes only the references.
func TestPinDockerfile(t *testing.T) {
	pins := func(ref string) digest.Digest {
		if strings.HasPrefix(ref, "docker.io/library/") || strings.HasPrefix(ref, "localhost:5000/") {
			return digest.FromString(ref)
		}
		return ""
	}
	at := func(ref string) string { return "@" + digest.FromString(ref).String() }
	const text = "\ufeff# syntax=docker/dockerfile:1\r\n" +
		"ARG V=1\r\n" +
		"  from  --platform=$BUILDPLATFORM   golang:1.26{0}  as build # golang:1.26\r\n" +
		"FROM \\\r\n  # a golang\r\n  golang{1} \\\r\n  AS two\r\n" +
		"FROM golang:${V}\r\n" +
		"FROM from{2} AS three\n" +
		"FROM build AS four\n" +
		"FROM elsewhere.example/x:1\n" +
		"FROM scratch\n" +
		"COPY --chown=1 --from=localhost:5000/a/b{3} /a /golang\n" +
		"COPY --from=two /golang:1.26 /\n" +
		"COPY --from=0 / /\n" +
		"RUN --mount=type=bind,from=golang:1.26{0},target=/golang:1.26 --mount=from=golang{1},target=/y echo " +
		"golang:1.26\n" +
		"FROM golang:1.26@" + "sha256:0000000000000000000000000000000000000000000000000000000000000000" + "\n" +
		"RUN <<EOF\nFROM golang\nEOF"
	refs := []string{"docker.io/library/golang:1.26", "docker.io/library/golang:latest",
		"docker.io/library/from:latest", "localhost:5000/a/b:latest"}
	plain, want := text, text
	for i, ref := range refs {
		mark := fmt.Sprintf("{%d}", i)
		plain, want = strings.ReplaceAll(plain, mark, ""), strings.ReplaceAll(want, mark, at(ref))
	}
	got, left := planner.PinDockerfile([]byte(plain), func(ref string) digest.Digest {
		if strings.Contains(ref, "@") {
			return ""
		}
		return pins(ref)
	})
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]planner.Unpinned{{Line: 8, Word: "golang:${V}"}}, left); d != "" {
		t.Error(d)
	}
	if again, _ := planner.PinDockerfile(got, func(ref string) digest.Digest {
		if strings.Contains(ref, "@") {
			return ""
		}
		return pins(ref)
	}); string(again) != string(got) {
		t.Error("pinning a pinned Dockerfile changes it")
	}
}

// TestDrift checks that inconsistent uses of a repository are reported with their locations.
func TestDrift(t *testing.T) {
	dir := t.TempDir()
	zero := hexDigest("0").String()
	write(t, dir, map[string]string{
		"a/Dockerfile": "FROM x:1 AS one\nFROM x:2\n", "b/Dockerfile": "\nFROM x:1@" + zero + "\n",
		"c/Dockerfile": "FROM quay.io/x:same\nCOPY --from=y:same / /\n",
	})
	p := project(dir, &config.Target{Name: "a", Context: "a"}, &config.Target{Name: "a1", Context: "a", Stage: "one"},
		&config.Target{Name: "b", Context: "b"}, &config.Target{Name: "c", Context: "c"})
	lock := config.NewLock()
	for _, ref := range []string{"docker.io/library/x:1", "quay.io/x:same", "docker.io/library/y:same"} {
		lock.Images[ref] = config.ImagePin{Digest: hexDigest("0")}
	}
	g, err := planner.Plan(t.Context(), p, planner.Options{Resolver: &recordingResolver{}, Platform: amd64(),
		Lock: lock})
	if err != nil {
		t.Fatal(err)
	}
	two := digest.FromString("docker.io/library/x:2")
	x1 := planner.DriftUse{Ref: "docker.io/library/x:1", Tag: "1", Digest: hexDigest("0"), Pinned: "lock",
		Targets: []string{"a1"}, Places: []string{"a/Dockerfile:1"}}
	written := planner.DriftUse{Ref: "docker.io/library/x:1@" + zero, Tag: "1", Digest: hexDigest("0"),
		Pinned: "Dockerfile", Targets: []string{"b"}, Places: []string{"b/Dockerfile:2"}}
	y := planner.DriftUse{Ref: "docker.io/library/y:same", Tag: "same", Digest: hexDigest("0"), Pinned: "lock",
		Targets: []string{"c"}, Places: []string{"c/Dockerfile:2"}}
	quay := planner.DriftUse{Ref: "quay.io/x:same", Tag: "same", Digest: hexDigest("0"), Pinned: "lock",
		Targets: []string{"c"}, Places: []string{"c/Dockerfile:1"}}
	want := []planner.Drift{
		{
			Repository: "docker.io/library/x",
			Uses: []planner.DriftUse{x1, written,
				{Ref: "docker.io/library/x:2", Tag: "2", Digest: two, Pinned: "no", Targets: []string{"a"},
					Places: []string{"a/Dockerfile:2"}}},
			Notes: []string{
				"1 is used with and without its digest; use one of them",
				"some uses are pinned and some are not; to pin the rest, run bake pin",
			},
		},
		{
			Repository: "docker.io/library/x, docker.io/library/y, quay.io/x",
			Uses:       []planner.DriftUse{x1, written, y, quay},
			Notes:      []string{"the same image is pulled from several repositories; use one of them"},
		},
	}
	if d := cmp.Diff(want, g.Drift()); d != "" {
		t.Error(d)
	}
}
