package planner_test

import (
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// documentedArgs are the build arguments that BuildKit documents, with values, and what each does here.
const documentedArgs = `
	BUILDKIT_BUILD_NAME=x warns
	BUILDKIT_CACHE_MOUNT_NS=x works
	BUILDKIT_GIT_ADVICE=1 warns
	BUILDKIT_GIT_ADVICE=false idle
	BUILDKIT_INLINE_CACHE=1 warns
	BUILDKIT_INLINE_CACHE=0 idle
	BUILDKIT_MULTI_PLATFORM=1 works
	BUILDKIT_SANDBOX_HOSTNAME=x works
	SOURCE_DATE_EPOCH=7 works
	BUILDKIT_SYNTAX=dockerfile.v0 idle
	BUILDKIT_SYNTAX=docker/dockerfile:1 idle
	BUILDKIT_SYNTAX=mirror.example.com/hub/docker/dockerfile:1.9 idle
	BUILDKIT_SYNTAX=docker/dockerfile@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa idle
	BUILDKIT_SYNTAX=example.com/own refused
	BUILDKIT_SYNTAX=example.com/mydocker/dockerfile refused
	BUILDKIT_DOCKERFILE_CHECK=skip=all quiet
	BUILDKIT_DOCKERFILE_CHECK=error=true refused
	HTTP_PROXY=http://p works
	https_proxy=http://p works
	FTP_PROXY=p works
	NO_PROXY=p works
	ALL_PROXY=p works
`

// planOfArg returns a text of the plan of a target with a build argument, and its warnings.
func planOfArg(t *testing.T, name, value string) (string, []planner.Warning, error) {
	t.Helper()
	const file = "FROM scratch\nARG N\nCOPY f /f\nRUN --mount=type=cache,target=/c [\"x\"]\n" +
		"from scratch as z\nCOPY --from=0 /f /\n"
	text := file
	p := &config.Project{Dir: t.TempDir(), Requested: []string{"t"}, Targets: map[string]*config.Target{
		"t": {Name: "t", Context: ".", DockerfileInline: &text, Args: map[string]string{}},
	}}
	if name != "" {
		p.Targets["t"].Args[name] = value
	}
	g, err := planner.Plan(t.Context(), p, planner.Options{})
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	for _, s := range g.Steps {
		raw, err := s.Op.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		b.Write(raw)
	}
	for _, i := range g.Images {
		b.WriteString(i.Platform.OS)
		if i.MultiPlatform {
			b.WriteString("several")
		}
		if i.Epoch != nil {
			b.WriteString(i.Epoch.String())
		}
	}
	return b.String(), g.Warnings, nil
}

// TestBuildKitArgs goes through the build arguments that BuildKit documents: each has an effect on the plan, or gives a
// warning, or is refused.
func TestBuildKitArgs(t *testing.T) {
	plain, lint, err := planOfArg(t, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(documentedArgs) {
		arg, want, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(arg, "=")
		got, warnings, err := planOfArg(t, name, value)
		idle := 0
		for _, w := range warnings {
			if w.Rule == "IdleBuildArg" && strings.Contains(w.Message, "target t: args: "+arg+" has no effect: ") {
				idle++
			}
		}
		state := "idle"
		switch {
		case err != nil:
			state = "refused"
		case idle == 1:
			state = "warns"
		case len(warnings) < len(lint):
			state = "quiet"
		case got != plain:
			state = "works"
		}
		if state != want {
			t.Errorf("%s: %s, want %s (%v)", arg, state, want, err)
		}
	}
}

// TestWarningsOfFailed: a target that cannot be planned still reports its warnings, with their lines.
func TestWarningsOfFailed(t *testing.T) {
	for _, file := range []string{
		"# check=error=true\nFROM scratch as x\nCOPY f /\n", "FROM scratch as x\nCOPY f /\nNOSUCH\n",
		"FROM scratch as x\nCOPY --from=gone f /\n",
	} {
		p := &config.Project{Dir: t.TempDir(), Requested: []string{"t", "u"}, Targets: map[string]*config.Target{
			"t": {Name: "t", Context: ".", DockerfileInline: &file},
			"u": {Name: "u", Context: ".", DockerfileInline: &file},
		}}
		var got []planner.Warning
		_, err := planner.Plan(t.Context(), p, planner.Options{
			Resolver: &fakeResolver{}, Warn: func(w planner.Warning) { got = append(got, w) },
		})
		if err == nil && strings.Contains(file, "gone") {
			continue // an image of that name
		}
		if err == nil || len(got) == 0 || got[0].Rule != "FromAsCasing" || got[0].Location.Start == 0 {
			t.Errorf("%q: %v, warnings %+v", file, err, got)
		}
	}
}
