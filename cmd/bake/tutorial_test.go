package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
)

// tutorialDockerfile and tutorialApp are the files of the tutorial.
const tutorialDockerfile = `FROM python:3.8-alpine
RUN pip install flask
CMD ["python","app.py"]
COPY app.py /app.py
`

const tutorialApp = `from flask import Flask
app = Flask(__name__)

@app.route("/")
def hello():
    return "hello world!"

if __name__ == "__main__":
    app.run(host="0.0.0.0")
`

// realBases returns the registry with the bases of Docker Hub, which replaces docker.io.
func realBases(t *testing.T) string {
	t.Helper()
	registry := os.Getenv("BAKE_TEST_BASES")
	if registry == "" {
		skip(t, "BAKE_TEST_BASES names no registry with real bases (.ci/test starts one)")
	}
	return registry
}

// mirrorDockerHub makes the registry the mirror of docker.io for c, with a registries.conf.
func mirrorDockerHub(t *testing.T, c *cli, registry string) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "registries.conf")
	text := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n\n"+
		"[[registry.mirror]]\nlocation = %q\ninsecure = true\n", registry)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c.env["CONTAINERS_REGISTRIES_CONF"] = conf
}

// newTutorial returns a directory with the two files of the tutorial, and an empty cache.
func newTutorial(t *testing.T) *cli {
	t.Helper()
	needSandbox(t)
	c := newCLI(t)
	mirrorDockerHub(t, c, realBases(t))
	c.write(t, "Dockerfile", tutorialDockerfile)
	c.write(t, "app.py", tutorialApp)
	return c
}

// TestTutorial shows that the tutorial works as written: build, list, history, inspect, and a change of the app.
func TestTutorial(t *testing.T) {
	c := newTutorial(t)
	build := []string{"image", "build", "--progress=plain", "-t", "python-hello-world", "."}

	_, stderr := c.ok(t, build...)
	wantMatch(t, "pip ran in the sandbox", stderr, `(?i)Successfully installed .*Flask`)
	wantMatch(t, "no tag means latest, and that is said", stderr, `note: .*python-hello-world.*latest`)

	stdout, _ := c.ok(t, "image", "ls")
	wantMatch(t, "the image is listed", stdout, `(?m)^python-hello-world:latest +[0-9a-f]{12} +\S.* built$`)
	wantMatch(t, "the base is listed", stdout, `(?m)^python:3\.8-alpine +[0-9a-f]{12} +\S.* base$`)

	stdout, _ = c.ok(t, "history", "python-hello-world")
	wantMatch(t, "newest first", stdout,
		`(?s)COPY app\.py /app\.py.*CMD \["python" "app\.py"\].*RUN /bin/sh -c pip install flask`)
	c.ok(t, "history", "python:3.8-alpine")

	stdout, _ = c.ok(t, "image", "inspect", "python-hello-world")
	wantMatch(t, "the base's own CMD is overridden", stdout, `(?s)"Cmd": \[\s+"python",\s+"app.py"\s+\]`)

	_, stderr = c.ok(t, build...)
	wantMatch(t, "nothing changed", stderr, `up to date`)

	c.write(t, "app.py", tutorialApp+"# changed\n")
	_, stderr = c.ok(t, build...)
	wantMatch(t, "only the last step runs", stderr, `: 1 ran, `)
	if strings.Contains(stderr, "Successfully installed") {
		t.Error("pip ran again for a change of app.py")
	}
}

// TestTutorialChangeOfBaseRunsAll shows that RUN steps run again on another base.
func TestTutorialChangeOfBaseRunsAll(t *testing.T) {
	c := newTutorial(t)
	registry := realBases(t)
	// The same root file system under another tag and digest.
	other := registry + "/library/python:other"
	image, err := crane.Pull(registry+"/library/python:3.8-alpine", crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Labels = map[string]string{"other": "yes"}
	if image, err = withConfig(image, config); err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, other, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	build := []string{"image", "build", "--progress=plain", "-t", "python-hello-world:1", "."}
	c.ok(t, build...)
	c.write(t, "Dockerfile", strings.Replace(tutorialDockerfile, "3.8-alpine", "other", 1))
	_, stderr := c.ok(t, build...)
	wantMatch(t, "pip ran again", stderr, `(?i)Successfully installed .*Flask`)
	// The layer of a COPY depends only on what it looks up in its parent. That is equal in the new base, so the layer
	// is cached.
	wantMatch(t, "nothing of the old image is left", stderr, `COPY app.py /app.py\n#\d+ CACHED`)
	stdout, _ := c.ok(t, "image", "inspect", "python-hello-world:1")
	wantMatch(t, "it stands on the new base", stdout, `"other": "yes"`)
}

// TestTutorialTwoCommands shows that a second CMD overrides the first, with a warning.
func TestTutorialTwoCommands(t *testing.T) {
	c := newTutorial(t)
	c.write(t, "Dockerfile", tutorialDockerfile+"CMD [\"python\",\"-V\"]\n")
	_, stderr := c.ok(t, "image", "build", "-t", "two:1", ".")
	wantMatch(t, "a second CMD is warned of, with its place", stderr,
		`warning: Dockerfile:\d+: MultipleInstructionsDisallowed: .*CMD`)
	stdout, _ := c.ok(t, "image", "inspect", "two:1")
	wantMatch(t, "the last CMD holds", stdout, `(?s)"Cmd": \[\s+"python",\s+"-V"\s+\]`)
}

// buildFlask builds the project of the tutorial. Its base is pinned to the digest at the mirror of Docker Hub.
func buildFlask(t *testing.T, c *cli, registry string) {
	t.Helper()
	mirrorDockerHub(t, c, registry)
	if err := os.CopyFS(c.dir, os.DirFS("../../examples/flask")); err != nil {
		t.Fatal(err)
	}
	digest, err := crane.Digest(registry+"/library/python:3.8-alpine", crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	_, stderr := c.ok(t, "build", "--progress=plain", "--var", "PYTHON=python:3.8-alpine@"+digest)
	wantMatch(t, "built", stderr, `built python-hello-world:latest sha256:`)
}

// TestExampleFlask shows that the tutorial builds as a project file.
func TestExampleFlask(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	registry := realBases(t)
	buildFlask(t, c, registry)
}

// wantMatch fails the test if a text does not match a pattern; what names the check.
func wantMatch(t *testing.T, what, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%s: no match of %s in:\n%s", what, pattern, text)
	}
}
