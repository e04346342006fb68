package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor/executortest"
)

// equalFiles are instructions that read files of a folder PLACE. The folders of three targets have equal files. apart
// reports that the files do not land in one place, so that the three targets share nothing. more reports that only ours
// shares them: for BuildKit, the name of a copied directory counts although its files land elsewhere.
func equalFiles() []struct {
	line        string
	apart, more bool
} {
	return []struct {
		line        string
		apart, more bool
	}{
		{line: "COPY PLACE/req.txt ."},
		{line: "COPY PLACE/req.txt /etc/"},
		{line: "COPY PLACE/req.txt PLACE/proto/x.proto /etc/"},
		{line: "COPY PLACE/proto ./proto"},
		{line: "COPY PLACE /app", more: true},
		{line: "COPY PLACE/proto/ /app"},
		{line: "COPY PLACE/*.txt /app/"},
		{line: "ADD PLACE/req.txt /app/"},
		{line: "COPY --chown=5:6 PLACE/proto /p"},
		{line: "COPY --chmod=640 PLACE/req.txt /p"},
		{line: "COPY --link PLACE/req.txt /p"},
		{line: "COPY --link PLACE/proto /p/"},
		{line: "COPY --exclude=*.txt PLACE /p", more: true},
		{line: "COPY --exclude=d PLACE/proto /p"},
		{line: "COPY --from=files-PLACE /proto /p"},
		{line: "COPY --from=files-PLACE --chown=3:3 /proto /p"},
		{line: "RUN --mount=type=bind,source=PLACE/proto,target=/in ls /in >/out"},
		{line: "RUN --mount=type=bind,source=PLACE/req.txt,target=/in cat /in >/out"},
		{line: "RUN --mount=type=bind,from=files-PLACE,source=proto,target=/in ls /in >/out"},
		{line: "COPY --parents PLACE/req.txt /", apart: true},
		{line: "COPY PLACE /PLACE", apart: true},
	}
}

// TestSharingAsPeer shows that equal files of different places are one step, as with BuildKit: the command above runs
// as often, which the random id that it writes shows, and the same images share their layers.
func TestSharingAsPeer(t *testing.T) {
	needSandbox(t)
	address := serveBases(t)
	peer := startBuildKit(t)
	ours, theirs := newCLI(t), t.TempDir()
	for _, dir := range []string{ours.dir, theirs} {
		writeEqualFiles(t, dir, address)
	}
	peer.bake(t, theirs)
	ours.ok(t, "build", "--provenance=false", "--progress=quiet")
	for i, row := range equalFiles() {
		t.Run(row.line, func(t *testing.T) {
			want := 1
			if row.apart {
				want = 3
			}
			own, other := sharingOf(t, ours.dir, i), sharingOf(t, theirs, i)
			if row.more {
				if own.runs != 1 || other.runs != 3 {
					t.Errorf("the command ran %d times, with BuildKit %d times; want 1 and 3", own.runs, other.runs)
				}
				return
			}
			if own != other || own.runs != want {
				t.Errorf("the command ran %d times, the images have the layers %s; BuildKit: %d, %s; want %d",
					own.runs, own.layers, other.runs, other.layers, want)
			}
		})
	}
}

// writeEqualFiles writes the project: for each row of equalFiles the targets ROW-a, ROW-b and ROW-c.
func writeEqualFiles(t *testing.T, dir, registry string) {
	t.Helper()
	var project, names strings.Builder
	for _, place := range []string{"a", "b", "c"} {
		writeFile(t, filepath.Join(dir, place, "req.txt"), "flask\n")
		writeFile(t, filepath.Join(dir, place, "proto/x.proto"), "x\n")
		writeFile(t, filepath.Join(dir, place, "proto/d/y.proto"), "y\n")
		for i, row := range equalFiles() {
			name := fmt.Sprintf("r%d-%s", i, place)
			file := fmt.Sprintf("FROM %s/busybox:1 AS base\nUSER root\nFROM base AS files-PLACE\nCOPY PLACE /\n"+
				"FROM base\nWORKDIR /row%d\n%s\nRUN cat /proc/sys/kernel/random/uuid >/ran\n", registry, i, row.line)
			writeFile(t, filepath.Join(dir, name+".Dockerfile"), strings.ReplaceAll(file, "PLACE", place))
			fmt.Fprintf(&project, "target %q {\n  dockerfile = \"%s.Dockerfile\"\n  output = "+
				"[\"type=oci,dest=out/%s.tar\"]\n}\n", name, name, name)
			fmt.Fprintf(&names, "%q, ", name)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "docker-bake.hcl"), project.String()+
		"group \"default\" { targets = ["+names.String()+"] }\n")
}

// sharing is what three targets have in common.
type sharing struct {
	runs   int    // how often the command ran for them
	layers string // their layers, as numbers in the order in which they first occur
}

var uuid = regexp.MustCompile(`[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// sharingOf returns what the targets of a row have in common.
func sharingOf(t *testing.T, dir string, row int) sharing {
	t.Helper()
	ran, numbers, text := map[string]bool{}, map[string]int{}, ""
	for _, place := range []string{"a", "b", "c"} {
		image := filepath.Join(dir, "out", fmt.Sprintf("r%d-%s.tar", row, place))
		files, err := executortest.ReadImage(image)
		if err != nil {
			t.Fatal(err)
		}
		ran[uuid.FindString(files)] = true
		text += " ["
		for _, l := range manifestIn(t, image).Layers {
			if _, known := numbers[l.Digest.String()]; !known {
				numbers[l.Digest.String()] = len(numbers)
			}
			text += fmt.Sprint(" ", numbers[l.Digest.String()])
		}
		text += " ]"
	}
	if ran[""] {
		t.Fatalf("row %d: no id in /ran", row)
	}
	return sharing{len(ran), text}
}

// manifestIn returns the manifest of the only image in a layout, a tar file.
func manifestIn(t *testing.T, layout string) ocispecs.Manifest {
	t.Helper()
	f, err := os.Open(layout)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	small := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Size < 1<<20 {
			if small[filepath.Base(h.Name)], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	var index ocispecs.Index
	var m ocispecs.Manifest
	if err := json.Unmarshal(small["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("%s: %v, %d manifests", layout, err, len(index.Manifests))
	}
	if err := json.Unmarshal(small[index.Manifests[0].Digest.Encoded()], &m); err != nil {
		t.Fatal(err)
	}
	return m
}
