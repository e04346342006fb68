package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/embedded/fetch"
)

// TestWhichEngine shows the precedence of engines: flag, BAKE_ENGINE, BUILDKIT_HOST, project file.
func TestWhichEngine(t *testing.T) {
	project := &config.Project{Engines: map[string]config.Engine{
		"arm": {Address: "tcp://arm:1", Platforms: []string{"linux/arm64"}, Weight: 2},
		"amd": {Address: "tcp://amd:1", Weight: 1},
	}}
	amd := buildkitd.Builder{Address: "tcp://amd:1", Weight: 1}
	arm := buildkitd.Builder{Address: "tcp://arm:1", Platforms: []string{"linux/arm64"}, Weight: 2}
	at := func(address string) buildkitd.Builder { return buildkitd.Builder{Address: address} }
	for _, c := range []struct {
		name   string
		flag   []string
		env    map[string]string
		remote bool
		want   []buildkitd.Builder
	}{
		{name: "all of the project", want: []buildkitd.Builder{amd, arm}},
		{name: "none of a project from elsewhere", remote: true},
		{name: "named of a project from elsewhere", remote: true, flag: []string{"arm"},
			want: []buildkitd.Builder{arm}},
		{name: "BUILDKIT_HOST", env: map[string]string{"BUILDKIT_HOST": "tcp://x:1"},
			want: []buildkitd.Builder{at("tcp://x:1")}},
		{name: "BAKE_ENGINE goes first", env: map[string]string{"BUILDKIT_HOST": "tcp://x:1",
			"BAKE_ENGINE": "embedded"}},
		{
			name: "the flag goes before all", flag: []string{"amd,tcp://y:1", "tcp://z:1"},
			env:  map[string]string{"BAKE_ENGINE": "embedded"},
			want: []buildkitd.Builder{amd, at("tcp://y:1"), at("tcp://z:1")},
		},
		{name: "this process", flag: []string{"embedded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{environ: c.env}
			if c.remote {
				a.fetcher = &fetch.Fetcher{}
			}
			got, err := a.builders(project, c.flag)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
