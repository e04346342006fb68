package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAttestationsOfFiles shows that outputs of files have the same statements, with each file as a subject, with both
// engines and with BuildKit. A file of the image with the name of a statement is an error.
func TestAttestationsOfFiles(t *testing.T) {
	c, _ := attested(t)
	builders := fileBuilders(t, c)
	two := []string{"--set", "default.platform=linux/amd64,linux/arm64"}
	for _, one := range []struct {
		output string
		more   []string
		files  []string // the statements
	}{
		{"type=local,dest=DEST", nil, []string{"provenance.json", "sbom.spdx.json"}},
		{"type=tar,dest=DEST", nil, []string{"provenance.json", "sbom.spdx.json"}},
		{"type=local,dest=DEST", two, []string{
			"linux_amd64/provenance.json", "linux_amd64/sbom.spdx.json", "linux_arm64/provenance.json",
			"linux_arm64/sbom.spdx.json"}},
		{"type=local,dest=DEST,attestation-prefix=of-",
			[]string{"--set", "default.attest=type=provenance,mode=min,filename=made.json"},
			[]string{"of-made.json", "of-sbom.spdx.json"}},
		{"type=local,dest=DEST", []string{"--set", "default.attest=type=provenance,inline-only=true"},
			[]string{"sbom.spdx.json"}},
	} {
		results := map[string]map[string]string{}
		for name, build := range builders {
			dest := filepath.Join(t.TempDir(), "out")
			build(append([]string{"--set", "default.output=" + strings.Replace(one.output, "DEST", dest, 1)},
				one.more...))
			results[name] = writtenFiles(t, dest)
		}
		for name, files := range results {
			var found []string
			for path, content := range files {
				if strings.HasSuffix(path, ".json") {
					found = append(found, path)
					wantStatement(t, name+" "+path, content, results["buildx"][path])
				}
			}
			slices.Sort(found)
			if diff := cmp.Diff(one.files, found); diff != "" {
				t.Errorf("%s with %s %s:\n%s", one.output, name, one.more, diff)
			}
		}
	}
	c.write(t, "b.txt", "b")
	c.write(t, "bake.hcl", "target \"default\" {\n  context = \".\"\n"+
		"  dockerfile-inline = \"FROM scratch\\nCOPY b.txt /provenance.json\"\n"+
		"  attest = [\"type=provenance\"]\n  output = [\"type=local,dest=taken\"]\n}\n")
	if _, stderr, code := c.run(t, "build"); code == 0 || !strings.Contains(stderr, "attestation-prefix=PREFIX") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// fileBuilders returns functions that build the project of c with additional arguments: in this process, with a daemon,
// and with buildx and the same daemon.
func fileBuilders(t *testing.T, c *cli) map[string]func(args []string) {
	t.Helper()
	k := startBuildKit(t)
	bake := []string{"build", "--progress=none", "--allow=fs=*"}
	return map[string]func(args []string){
		"embedded": func(args []string) { c.ok(t, slices.Concat(bake, args)...) },
		"daemon":   func(args []string) { c.ok(t, slices.Concat(bake, []string{"--engine", k.address}, args)...) },
		"buildx": func(args []string) {
			buildx := []string{"bake", "--builder", "peer", "-f", "bake.hcl", "--allow=fs=*"}
			peer := k.command(slices.Concat(buildx, args)...)
			peer.Dir = c.dir
			if out, err := peer.CombinedOutput(); err != nil {
				t.Fatalf("buildx bake: %v\n%s", err, out)
			}
		},
	}
}

// writtenFiles returns the regular files of a directory or of a tar, by path.
func writtenFiles(t *testing.T, dest string) map[string]string {
	t.Helper()
	if info, err := os.Stat(dest); err == nil && !info.IsDir() {
		return tarFiles(t, dest)
	}
	all := map[string]string{}
	err := filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dest+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wantStatement compares a statement with BuildKit's: its type and subject, and for an SBOM also its predicate.
func wantStatement(t *testing.T, what, got, want string) {
	t.Helper()
	var ours, theirs statement
	if err := json.Unmarshal([]byte(got), &ours); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := json.Unmarshal([]byte(want), &theirs); err != nil {
		t.Fatalf("%s of BuildKit: %v", what, err)
	}
	if ours.PredicateType != spdxType {
		ours.Predicate, theirs.Predicate = nil, nil
	}
	if diff := cmp.Diff(theirs, ours); diff != "" || len(ours.Subject) == 0 {
		t.Errorf("%s, BuildKit's and ours:\n%s", what, diff)
	}
}
