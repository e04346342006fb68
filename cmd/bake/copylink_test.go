package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// linkStages has stages without /k/in, with it, and with other attributes of it.
const linkStages = `ARG STAGE=none
FROM REGISTRY/busybox:1 AS none
FROM REGISTRY/busybox:1 AS other
RUN touch /other
FROM REGISTRY/busybox:1 AS plain
RUN mkdir -p /k/in
FROM REGISTRY/busybox:1 AS mode
RUN mkdir -p /k/in && chmod 700 /k && chown 5:6 /k/in
FROM REGISTRY/busybox:1 AS mode2
RUN touch /more && mkdir -p /k/in /k/extra && chmod 700 /k && chown 5:6 /k/in
FROM REGISTRY/busybox:1 AS link
RUN mkdir -m 700 /real && ln -s /real /k
FROM ${STAGE} AS image
COPY --link f /k/in/
FROM image AS look
RUN stat -c '%n %a %u:%g' /k /k/in /k/in/f
`

const linkProject = `target "image" {
  matrix     = { s = ["none", "other", "plain", "mode", "mode2", "link"] }
  name       = s
  target     = "image"
  args       = { STAGE = s }
  output     = ["type=oci,tar=false,dest=${s}.oci"]
}
target "look" {
  matrix = { s = ["mode", "link"] }
  name   = "look-${s}"
  target = "look"
  args   = { STAGE = s }
  output = ["type=cacheonly"]
}
group "default" { targets = ["image", "look"] }
`

// TestCopyLinkKeepsDirectories: COPY --link keeps the mode and owner of directories that the stage has. Its layer is
// the same on all stages that have none of these directories, or have them as the layer makes them, and the same on all
// stages that have them with equal other attributes. A repeated build, also with a rebuilt base, copies nothing.
func TestCopyLinkKeepsDirectories(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "f", "f")
	c.write(t, "Dockerfile", strings.ReplaceAll(linkStages, "REGISTRY", serveBases(t)))
	c.write(t, "docker-bake.hcl", linkProject)
	_, stderr := c.ok(t, "build", "--progress=plain")
	for _, want := range []string{"/k 700 0:0", "/k/in 755 5:6", "/k/in/f 644 0:0", "/k 755 0:0", "/k/in 755 0:0"} {
		wantMatch(t, want, stderr, "(?m)^#[0-9]+ [0-9.]+ "+want+"$")
	}
	top := map[string]string{}
	for _, s := range []string{"none", "other", "plain", "mode", "mode2", "link"} {
		top[s] = topLayer(t, filepath.Join(c.dir, s+".oci"))
	}
	if top["none"] != top["other"] || top["none"] != top["plain"] || top["none"] != top["link"] {
		t.Errorf("the layer depends on the base: %v", top)
	}
	if top["mode"] != top["mode2"] || top["mode"] == top["none"] {
		t.Errorf("want one other layer for equal directories: %v", top)
	}
	_, stderr = c.ok(t, "build")
	wantMatch(t, "nothing to do", stderr, "up to date")
	stdout, _ := c.ok(t, "plan", "--exit-code")
	wantMatch(t, "nothing to do", stdout, " 0 will run, 0 may run")

	// A rebuilt base with the same directories: only the base runs, and the directories are compared.
	file := c.read(t, "Dockerfile")
	c.write(t, "Dockerfile", strings.Replace(file, "touch /more", "touch /less", 1))
	_, stderr = c.ok(t, "build", "--progress=plain", "mode2")
	if again := topLayer(t, filepath.Join(c.dir, "mode2.oci")); again != top["mode2"] {
		t.Errorf("the layer changed with the base: %s, was %s", again, top["mode2"])
	}
	wantMatch(t, "the copy is cached", stderr, `(?m)COPY --link f /k/in/\n(#.*\n)*#[0-9]+ CACHED`)
}

// topLayer returns the diff id of the last layer of the only image in an OCI layout.
func topLayer(t *testing.T, dir string) string {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	ids := config.RootFS.DiffIDs
	return ids[len(ids)-1].String()
}
