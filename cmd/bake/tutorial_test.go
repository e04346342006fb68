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

// realBases is the registry with the real bases, which stands in for docker.io.
func realBases(t *testing.T) string {
	t.Helper()
	registry := os.Getenv("BAKE_TEST_BASES")
	if registry == "" {
		skip(t, "BAKE_TEST_BASES names no registry with real bases (.ci/test starts one)")
	}
	return registry
}

// mirrorDockerHub makes c see the registry as the mirror of docker.io, through registries.conf.
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

// newTutorial is a folder with the tutorial's two files and a cache of its own.
func newTutorial(t *testing.T) *cli {
	t.Helper()
	needSandbox(t)
	c := newCLI(t)
	mirrorDockerHub(t, c, realBases(t))
	c.write(t, "Dockerfile", tutorialDockerfile)
	c.write(t, "app.py", tutorialApp)
	return c
}

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
	// The layer of a COPY depends on what it found in its parent, not on the parent: it is the same on the new base, and is
	// not made twice.
	wantMatch(t, "nothing of the old image is left", stderr, `COPY app.py /app.py\n#\d+ CACHED`)
	stdout, _ := c.ok(t, "image", "inspect", "python-hello-world:1")
	wantMatch(t, "it stands on the new base", stdout, `"other": "yes"`)
}

func TestTutorialTwoCommands(t *testing.T) {
	c := newTutorial(t)
	c.write(t, "Dockerfile", tutorialDockerfile+"CMD [\"python\",\"-V\"]\n")
	_, stderr := c.ok(t, "image", "build", "-t", "two:1", ".")
	wantMatch(t, "a second CMD is warned of, with its place", stderr,
		`warning: Dockerfile:\d+: MultipleInstructionsDisallowed: .*CMD`)
	stdout, _ := c.ok(t, "image", "inspect", "two:1")
	wantMatch(t, "the last CMD holds", stdout, `(?s)"Cmd": \[\s+"python",\s+"-V"\s+\]`)
}

// buildFlask builds the tutorial's project, its base pinned to the digest that a mirror of Docker Hub has.
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

// TestExampleFlask builds the tutorial as a project file, its base pinned to the digest that the mirror has.
func TestExampleFlask(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	registry := realBases(t)
	buildFlask(t, c, registry)
}

func wantMatch(t *testing.T, what, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%s: no match of %s in:\n%s", what, pattern, text)
	}
}
