package buildkitd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// TestCachesFromTheEnvironment checks that addresses and credentials come from the variables that BuildKit's clients
// read.
func TestCachesFromTheEnvironment(t *testing.T) {
	workflow := map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_CACHE_URL": "u", "ACTIONS_RESULTS_URL": "v"}
	second := map[string]string{"ACTIONS_RUNTIME_TOKEN": "t", "ACTIONS_RESULTS_URL": "v",
		"ACTIONS_CACHE_SERVICE_V2": "true"}
	cloud := map[string]string{"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "k", "AWS_REGION": "r"}
	for _, c := range []struct {
		name  string
		env   map[string]string
		attrs config.Attrs
		want  map[string]string // nil: no cache
		err   bool
	}{
		{name: "gha", env: workflow, attrs: config.Attrs{"type": "gha", "scope": "s"},
			want: map[string]string{"scope": "s", "token": "t", "url": "u"}},
		{name: "gha, second", env: second, attrs: config.Attrs{"type": "gha"},
			want: map[string]string{"token": "t", "url": "v", "url_v2": "v", "version": "2"}},
		{name: "gha, no workflow", attrs: config.Attrs{"type": "gha"}},
		{name: "s3", env: cloud, attrs: config.Attrs{"type": "s3", "bucket": "b"}, want: map[string]string{
			"bucket": "b", "region": "r", "access_key_id": "i", "secret_access_key": "k",
		}},
		{name: "s3, own key", env: cloud, attrs: config.Attrs{"type": "s3", "bucket": "b", "access_key_id": "o",
			"region": "q"}, want: map[string]string{
			"bucket": "b", "region": "q", "access_key_id": "o",
		}},
		{name: "azblob", attrs: config.Attrs{"type": "azblob", "account_url": "a"},
			want: map[string]string{"account_url": "a"}},
		{name: "registry", attrs: config.Attrs{"type": "registry", "ref": "r"}, want: map[string]string{"ref": "r"}},
		{name: "registry without ref", attrs: config.Attrs{"type": "registry"}, err: true},
		{name: "local without dest", attrs: config.Attrs{"type": "local"}, err: true},
		{name: "unknown", attrs: config.Attrs{"type": "tape"}, err: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := New(Options{CacheTo: map[string][]config.Attrs{"t": {c.attrs}}, Env: func(name string) (string, bool) {
				value, ok := c.env[name]
				return value, ok
			}})
			got, err := e.caches(&planner.Graph{Images: []*planner.Image{{Target: "t"}, {Target: "t"}}}, t.TempDir())
			if (err != nil) != c.err {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			var want []client.CacheOptionsEntry
			if c.want != nil {
				want = append(want, client.CacheOptionsEntry{Type: c.attrs["type"], Attrs: c.want})
			}
			if d := cmp.Diff(want, got.exports["t"]); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestOneBuildForAll checks that only targets with their own cache exports are built separately.
func TestOneBuildForAll(t *testing.T) {
	a, b, c, d := &planner.Image{Target: "a"}, &planner.Image{Target: "b"}, &planner.Image{Target: "c"},
		&planner.Image{Target: "d"}
	r := &run{caches: &caches{exports: map[string][]client.CacheOptionsEntry{
		"c": {{Type: "registry", Attrs: map[string]string{"ref": "c"}}},
		"d": {{Type: "registry", Attrs: map[string]string{"ref": "d"}}},
	}}}
	jobs := newBatch(r, &builder{}, []*planner.Image{a, b, c, d}).jobs()
	if len(jobs) != 3 || len(jobs[0].images) != 2 || jobs[1].images[0] != c || jobs[2].images[0] != d {
		t.Errorf("%d builds: %v", len(jobs), jobs)
	}
}
