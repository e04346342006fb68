package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/executortest"
)

// TestAffectedMissesNothing shows that affected lists every target that a change rebuilds. It builds a random project,
// changes it at random and builds it again: a target whose image differs, or of which a step ran, must be listed.
// BAKE_SEED repeats a run from the seed that it printed.
func TestAffectedMissesNothing(t *testing.T) {
	needSandbox(t)
	seed := uint64(time.Now().UnixMilli())
	if s := os.Getenv("BAKE_SEED"); s != "" {
		seed = number(t, s)
	}
	t.Logf("BAKE_SEED=%d", seed)
	p := &randomProject{cli: newGit(t), r: rand.New(rand.NewPCG(seed, 0)), base: serveToolImage(t)}
	p.create(t)
	p.ok(t, "build", "--progress=none", "--metadata-file", "meta.json")
	before := builtDigests(t, p.cli)
	touched, spared := 0, 0
	// More rounds find more. The clock decides only how many more than four run.
	for round, start := 0, time.Now(); round < 4 || round < 40 && time.Since(start) < 6*time.Second; round++ {
		p.commit(t)
		var edits []string
		for range 1 + p.r.IntN(2) {
			edits = append(edits, p.edit(t))
		}
		if _, _, code := p.run(t, "build", "--progress=none", "--metadata-file", "meta.json"); code != 0 {
			p.git(t, "reset", "-q", "--hard") // it cannot be built, so nothing can be missing
			p.git(t, "clean", "-q", "-f", "-d")
			continue
		}
		after, rebuilt := builtDigests(t, p.cli), p.targetsThatRan(t)
		for target, now := range after {
			if before[target] != now && !slices.Contains(rebuilt, target) {
				rebuilt = append(rebuilt, target)
			}
		}
		for _, args := range p.comparisons(t) {
			out, _ := p.ok(t, append([]string{"affected"}, args...)...)
			named := strings.Fields(out)
			for _, target := range rebuilt {
				if !slices.Contains(named, target) {
					t.Errorf("round %d: after %s, %v list %v, but %s was rebuilt\n%s", round,
						strings.Join(edits, ", "), args, named, target, p.dockerfile(target))
				}
			}
			touched, spared = touched+len(named), spared+len(after)-len(named)
		}
		before = after
	}
	t.Logf("affected listed %d targets and omitted %d", touched, spared)
	if touched == 0 || spared == 0 {
		t.Error("the test shows nothing: no target was listed, or none was omitted")
	}
}

// randomProject is a git repository with targets that read its folders in random ways.
type randomProject struct {
	*cli
	r    *rand.Rand
	base string
}

const (
	randomTargets = 6
	randomFolders = 4
)

// create writes the project file, the Dockerfiles and the folders.
func (p *randomProject) create(t *testing.T) {
	p.write(t, ".gitignore", "meta.json\n")
	for d := range randomFolders {
		for _, name := range []string{"f0", "f1", "notes.md", "sub/g"} {
			p.write(t, fmt.Sprintf("d%d/%s", d, name), fmt.Sprint(d, name))
		}
	}
	var hcl strings.Builder
	hcl.WriteString("variable \"V\" {\n  default = \"1\"\n}\ngroup \"default\" {\n  targets = [")
	for i := range randomTargets {
		fmt.Fprintf(&hcl, "%q, ", target(i))
	}
	hcl.WriteString("]\n}\n")
	for i := range randomTargets {
		hcl.WriteString(p.target(t, i))
	}
	p.write(t, "bake.hcl", hcl.String())
}

// target returns the name of target i.
func target(i int) string { return fmt.Sprintf("t%d", i) }

// target writes the Dockerfile of target i and returns its block in the project file.
func (p *randomProject) target(t *testing.T, i int) string {
	attrs, from := fmt.Sprintf("  dockerfile = %q\n  args = { V = V }\n", target(i)+".Dockerfile"), "."
	var text strings.Builder
	fmt.Fprintf(&text, "FROM %s\n", p.base)
	if i > 0 && p.r.IntN(2) == 0 {
		attrs += fmt.Sprintf("  contexts = { linked = \"target:%s\" }\n", target(p.r.IntN(i)))
		text.WriteString("COPY --from=linked / /linked/\n")
	}
	if p.r.IntN(3) == 0 {
		from = p.folder()
		attrs = strings.Replace(attrs, "dockerfile = \"", "dockerfile = \"../", 1)
		attrs += fmt.Sprintf("  context = %q\n", from)
		text.WriteString("COPY . /all/\n")
	} else {
		for range 1 + p.r.IntN(3) {
			text.WriteString(p.instruction())
		}
	}
	if p.r.IntN(3) == 0 {
		p.write(t, target(i)+".Dockerfile.dockerignore", "**/*.md\n")
	}
	p.write(t, target(i)+".Dockerfile", text.String())
	return fmt.Sprintf("target %q {\n%s}\n", target(i), attrs)
}

// folder returns one of the folders at random.
func (p *randomProject) folder() string { return fmt.Sprintf("d%d", p.r.IntN(randomFolders)) }

// instruction returns a random instruction, most of which read files of the project.
func (p *randomProject) instruction() string {
	all := []string{
		"COPY D1 /copied/", "COPY D1/f0 /x", "COPY D1/f* /many/", "COPY --exclude=*.md D1 /some/", "COPY D1 D2 /both/",
		"COPY --chmod=600 D1/sub /s/",
		"ADD D1/f1 /added", "COPY --link D1 /linkedin/", "ARG V\nLABEL v=$V", "ARG V\nRUN [\"TOOL\", \"/v\"]",
		"RUN --mount=type=bind,source=D1,target=/in [\"TOOL\", \"/made\"]", "COPY *.hcl /",
	}
	text := all[p.r.IntN(len(all))] + "\n"
	return strings.NewReplacer("D1", p.folder(), "D2", p.folder(), "TOOL", executortest.ToolPath).Replace(text)
}

// edit changes a random file of the project and returns a description of the change.
func (p *randomProject) edit(t *testing.T) string {
	names := []string{"f0", "f1", "notes.md", "sub/g", "new", "f2", "sub/deep/h"}
	name := p.folder() + "/" + names[p.r.IntN(len(names))]
	path := filepath.Join(p.dir, name)
	var err error
	kind := p.r.IntN(9)
	switch kind {
	case 0:
		err = os.RemoveAll(path)
		_ = os.Remove(filepath.Dir(path)) // git does not record empty directories
	case 1:
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode().IsRegular() {
			err = os.Chmod(path, 0o755)
		}
	case 2:
		err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink("f0", path))
	case 3:
		name = target(p.r.IntN(randomTargets)) + ".Dockerfile"
		p.append(t, name, p.instruction())
	case 4:
		name = []string{".dockerignore", "t0.Dockerfile.dockerignore", "d1/.dockerignore"}[p.r.IntN(3)]
		p.append(t, name, []string{"**/f1", "d2", "!d2/sub", "new"}[p.r.IntN(4)]+"\n")
	case 5:
		name = "bake.hcl"
		p.append(t, name, fmt.Sprintf("target %q {\n  labels = { edited = \"%d\" }\n}\n",
			target(p.r.IntN(randomTargets)), p.r.IntN(100)))
	default:
		err = os.RemoveAll(path) // it may be a link
		p.write(t, name, fmt.Sprint(p.r.Uint64()))
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("edit %d of %s", kind, name)
}

// append adds text to a file, which it creates if needed.
func (p *randomProject) append(t *testing.T, name, text string) {
	t.Helper()
	old, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	p.write(t, name, string(old)+text)
}

// comparisons returns arguments of affected that select the change. At random it commits the change before.
func (p *randomProject) comparisons(t *testing.T) [][]string {
	all := [][]string{{"--since", "HEAD"}}
	if p.r.IntN(3) > 0 {
		return all
	}
	p.commit(t)
	return append(all[:0], []string{"--since", "HEAD~1"}, []string{"--since", "HEAD~1", "--until", "HEAD"})
}

// targetsThatRan returns the targets of which a step ran in the last build.
func (p *randomProject) targetsThatRan(t *testing.T) []string {
	t.Helper()
	out, _ := p.ok(t, "builds", "show", "--json")
	var build struct {
		Steps []struct {
			Status  string   `json:"status"`
			Targets []string `json:"targets"`
		} `json:"steps"`
	}
	if err := json.Unmarshal([]byte(out), &build); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range build.Steps {
		if s.Status == "ran" {
			all = append(all, s.Targets...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// dockerfile returns the Dockerfile of a target, for a message.
func (p *randomProject) dockerfile(target string) string {
	text, err := os.ReadFile(filepath.Join(p.dir, target+".Dockerfile"))
	return fmt.Sprintf("%s %v", text, err)
}
