package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// pushFile pushes an image with one file under a tag.
func (s *pinSite) pushFile(tag, content string) {
	s.t.Helper()
	image, err := crane.Image(map[string][]byte{"who": []byte(content)})
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := image.ConfigFile()
	if err != nil {
		s.t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", runtime.GOARCH
	if image, err = mutate.ConfigFile(image, c); err != nil {
		s.t.Fatal(err)
	}
	if err := crane.Push(image, s.host+"/"+tag, crane.Insecure); err != nil {
		s.t.Fatal(err)
	}
}

// TestPinFormats shows that Docker Bake builds from the pinned images with either exported format of the lock, and from
// the current images of the tags without it.
func TestPinFormats(t *testing.T) {
	k := startBuildKit(t)
	site := newRemoteSite(t)
	site.commit(t, "main", map[string]string{"sub/a.txt": "old"})
	s := newPinSite(t)
	s.pushFile("team/base:1", "old")
	s.write("docker-bake.hcl", `target "default" {
  dockerfile-inline = "FROM HOST/team/base:1\nADD `+site.url+`/repo.git#main:sub /r\nCOPY --from=named /who /named"
  contexts = { named = "docker-image://HOST/team/base:1" }
  output = ["type=local,dest=out"]
}
`)
	s.bake(0, "", "pin")
	policy, _ := s.bake(0, `"action": "CONVERT"`, "pin", "--format=source-policy")
	s.write("policy.json", policy)
	hcl, stderr := s.bake(0, `docker-image://HOST/team/base:1@sha256:`, "pin", "--format=bake-hcl")
	s.write("pins.hcl", hcl)
	wantMatch(t, "what a Bake file cannot say", stderr, "1 source not pinned: a Bake file can pin only images")
	s.pushFile("team/base:1", "new")
	site.commit(t, "main", map[string]string{"sub/a.txt": "new"})
	for _, c := range []struct {
		name, want string
		env        []string
		args       []string
	}{
		{name: "by their tags", want: "new new new"},
		{name: "source policy", want: "old old old",
			env: []string{"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=" + filepath.Join(s.dir, "policy.json")}},
		{name: "bake file", want: "old new old", args: []string{"-f", "docker-bake.hcl", "-f", "pins.hcl"}},
	} {
		if err := os.RemoveAll(filepath.Join(s.dir, "out")); err != nil {
			t.Fatal(err)
		}
		cmd := k.command(append([]string{"bake", "--builder", "peer", "--progress=plain", "--allow=fs=" + s.dir},
			c.args...)...)
		cmd.Dir = s.dir
		cmd.Env = append(cmd.Env, c.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, out)
		}
		if got := strings.Join([]string{s.read("out/who"), s.read("out/r/a.txt"), s.read("out/named")},
			" "); got != c.want {
			t.Errorf("%s: built %q, want %q", c.name, got, c.want)
		}
	}
}
