package pins

import (
	"context"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// fakeRemote is a registry and a server whose content is in maps.
type fakeRemote struct {
	images  map[string]digest.Digest // by reference with a tag or digest
	lost    map[string]bool          // platforms that no registry serves
	commits map[string]string        // by git reference
	files   map[string]digest.Digest
}

type missingError struct{}

func (missingError) Error() string  { return "not found" }
func (missingError) NotFound() bool { return true }

func (f fakeRemote) Head(_ context.Context, ref string) (digest.Digest, error) {
	if d, ok := f.images[ref]; ok {
		return d, nil
	}
	return "", missingError{}
}

func (f fakeRemote) Tags(context.Context, string) ([]string, error) { return nil, nil }
func (f fakeRemote) Copy(context.Context, string, string) error     { return nil }
func (f fakeRemote) Commit(_ context.Context, _, ref string) (string, error) {
	return f.commits[ref], nil
}
func (f fakeRemote) Content(_ context.Context, url string) (digest.Digest, error) {
	return f.files[url], nil
}
func (f fakeRemote) CheckPlatform(_ context.Context, _ string, p ocispecs.Platform) error {
	if f.lost[p.OS+"/"+p.Architecture] {
		return missingError{}
	}
	return nil
}

func TestVerify(t *testing.T) {
	const image, moving, repo, file = "docker.io/library/a:1.2.3", "docker.io/library/a:1", "https://x/r.git#v1.2.3",
		"https://x/f"
	old, now := digest.FromString("old"), digest.FromString("now")
	lock := config.NewLock()
	lock.Images[image], lock.Images[moving] = config.ImagePin{Digest: old}, config.ImagePin{Digest: old}
	lock.Git[repo], lock.HTTP[file] = "c1", old
	graph := &planner.Graph{
		Bases: []planner.BaseUse{{Ref: image, UsedPlatforms: []string{"linux/arm64"}}, {Ref: moving}},
		Sources: []planner.SourceUse{
			{Key: repo, Git: true, Remote: "https://x/r.git", Ref: "v1.2.3"}, {Key: file, Remote: file},
		},
	}
	unchanged := func() fakeRemote {
		return fakeRemote{
			images: map[string]digest.Digest{
				image: old, image + "@" + old.String(): old, moving: now, moving + "@" + old.String(): old,
			},
			lost: map[string]bool{}, commits: map[string]string{"v1.2.3": "c1"},
			files: map[string]digest.Digest{file: old},
		}
	}
	for _, c := range []struct {
		want   string // in the only error; "" is none
		change func(fakeRemote)
	}{
		{"", func(fakeRemote) {}},
		{"a:1.2.3: the version tag was pushed again: locked " + old.String(),
			func(f fakeRemote) { f.images[image] = now }},
		{"a:1: " + old.String() + " no longer exists at " + moving + " (the tag now names " + now.String() + ")",
			func(f fakeRemote) { delete(f.images, moving+"@"+old.String()) }},
		{"a:1.2.3: the linux/arm64 image of ", func(f fakeRemote) { f.lost["linux/arm64"] = true }},
		{repo + ": the version tag was moved: locked c1, now c2", func(f fakeRemote) { f.commits["v1.2.3"] = "c2" }},
		{file + ": the content changed: locked " + old.String(), func(f fakeRemote) { f.files[file] = now }},
	} {
		fake := unchanged()
		c.change(fake)
		remote := Remote{Registry: fake, Platforms: fake, Sources: fake}
		found := remote.Verify(t.Context(), lock, graph)
		if c.want == "" && len(found) > 0 || c.want != "" &&
			(len(found) != 1 || !strings.Contains(found[0].Error(), c.want)) {
			t.Errorf("want %q, got %v", c.want, found)
		}
	}
}
