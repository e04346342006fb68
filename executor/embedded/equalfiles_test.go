package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
)

// places is a project with equal files below a, b and c. Each of its three targets reads those of its own folder with
// line, in which DIR is the folder, and then runs one command.
func places(t *testing.T, line string) *site {
	t.Helper()
	files := map[string]string{}
	var targets []*config.Target
	for _, dir := range []string{"a", "b", "c"} {
		for name, text := range map[string]string{"req.txt": "flask", "proto/x.proto": "x", "proto/d/y.proto": "y"} {
			files[dir+"/"+name] = text
		}
		files[dir+".Dockerfile"] = "FROM scratch AS files-" + dir + "\nCOPY " + dir + " /\n" +
			"FROM scratch\n" + strings.ReplaceAll(line, "DIR", dir) + "\n"
		targets = append(targets, &config.Target{Name: dir, Dockerfile: dir + ".Dockerfile",
			Outputs: []config.Attrs{{"type": "cacheonly"}}})
	}
	s := newSite(t, files)
	s.targets = targets
	return s
}

const install = "\nRUN [\"count\", \"/installed\"]"

// TestCopyFromAnotherPlace shows the invariant of canonicalAction: equal files that land in one place are one layer,
// and the command above runs once, wherever the files are from and although all three copies run at once.
func TestCopyFromAnotherPlace(t *testing.T) {
	for _, line := range []string{
		"COPY DIR/req.txt ." + install,
		"COPY DIR/req.txt /etc/" + install,
		"COPY DIR/req.txt DIR/proto/x.proto /etc/" + install,
		"COPY DIR/proto ./proto" + install,
		"COPY DIR/ /app" + install,
		"COPY DIR/* /app/" + install,
		"COPY DIR/proto/*.proto /app/" + install,
		"COPY --chown=1:2 DIR/proto /p" + install,
		"COPY --chmod=0640 DIR/req.txt /p" + install,
		"COPY --exclude=*.txt DIR /p" + install,
		"COPY --link DIR/req.txt /p" + install,
		"ADD DIR/req.txt /p/" + install,
		"COPY --from=files-DIR /proto /p" + install,
		"COPY --from=files-DIR --chown=3:3 --exclude=d /proto /p" + install,
		"RUN --mount=type=bind,source=DIR/proto,target=/in [\"count\", \"/installed\"]",
		"RUN --mount=type=bind,source=DIR/req.txt,target=/in [\"count\", \"/installed\"]",
		"RUN --mount=type=bind,from=files-DIR,source=proto,target=/in [\"count\", \"/installed\"]",
	} {
		t.Run(line, func(t *testing.T) {
			s := places(t, line)
			s.must("count /installed")
			s.must()
			s.write(map[string]string{"b/req.txt": "changed", "b/proto/x.proto": "changed"})
			s.must("count /installed") // only b's command
		})
	}
}

// TestCopyToAnotherPlace holds what must not be shared: the same files that land elsewhere, or otherwise.
func TestCopyToAnotherPlace(t *testing.T) {
	for _, line := range []string{
		"COPY DIR/req.txt /DIR.txt" + install,
		"COPY DIR /DIR/" + install,
		"COPY --parents DIR/req.txt /" + install,
		"COPY --parents DIR/./proto/x.proto /DIR/" + install,
	} {
		t.Run(line, func(t *testing.T) {
			places(t, line).must("count /installed", "count /installed", "count /installed")
		})
	}
	t.Run("names of single files", func(t *testing.T) {
		s := newSite(t, map[string]string{
			"a.Dockerfile": "FROM scratch\nCOPY x /d/" + install, "b.Dockerfile": "FROM scratch\nCOPY y /d/" + install,
			"x": "same", "y": "same",
		})
		s.targets = []*config.Target{
			{Name: "a", Dockerfile: "a.Dockerfile", Outputs: s.targets[0].Outputs},
			{Name: "b", Dockerfile: "b.Dockerfile", Outputs: s.targets[0].Outputs},
		}
		s.must("count /installed", "count /installed")
		if got := s.file("b", "/d/y"); got != "same" {
			t.Errorf("got %q", got)
		}
	})
}

// TestChangedFilesOfEqualPlaces shows that an explanation names the files of the step's own place: equal files have one
// content digest and a list of paths for each place.
func TestChangedFilesOfEqualPlaces(t *testing.T) {
	s := places(t, "COPY DIR/proto /p"+install)
	s.must("count /installed")
	s.write(map[string]string{"c/proto/x.proto": "changed"})
	report := s.must("count /installed")
	var got []string
	for _, r := range report.Steps {
		for _, c := range r.Causes {
			if c.Kind == executor.CauseFiles {
				got = append(got, c.Name)
				for _, f := range c.Files {
					got = append(got, f.Path)
				}
			}
		}
	}
	if fmt.Sprint(got) != "[c/proto c/proto/x.proto]" {
		t.Errorf("got %q", got)
	}
}

// TestEqualFilesShareALayer counts the layers on disk.
func TestEqualFilesShareALayer(t *testing.T) {
	s := places(t, "COPY DIR/proto /p"+install)
	s.must("count /installed")
	layers, err := os.ReadDir(filepath.Join(s.store.Dir(), "layers"))
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 2 {
		t.Errorf("%d layers, want one of the copies and one of the command", len(layers))
	}
}

// TestCopyOfTwoFilesFromOneStage: the quick key of a copy from a stage has the stage's id, not the content, so it needs
// the names of the files.
func TestCopyOfTwoFilesFromOneStage(t *testing.T) {
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch AS files\nRUN [\"write\", \"/a/x\", \"1\"]\nRUN [\"write\", \"/b/x\", \"2\"]\n" +
			"FROM scratch\nCOPY --from=files /a/x /one/\nFROM scratch\nCOPY --from=files /b/x /one/\n",
	})
	s.must("write /b/x 2", "write /a/x 1")
	s.must()
	if got := s.file("api", "/one/x"); got != "2" {
		t.Errorf("got %q", got)
	}
	s.write(map[string]string{
		"Dockerfile": "FROM scratch AS files\nRUN [\"write\", \"/a/x\", \"1\"]\nRUN [\"write\", \"/b/x\", \"2\"]\n" +
			"FROM scratch\nCOPY --from=files /a/x /one/\n",
	})
	s.must()
	if got := s.file("api", "/one/x"); got != "1" {
		t.Errorf("got %q", got)
	}
}
