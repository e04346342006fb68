package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sourceCase is a target whose files come from a URL.
type sourceCase struct {
	name, context, dockerfile string
	named, args               map[string]string
}

// keptCases returns URLs whose checkouts are compared with .git, by name. Each branch and tag is written in one way:
// BuildKit keeps the checkout of a commit under the whole name of its reference, and .git is that of the first URL.
func keptCases(t *testing.T, s *gitSites) map[string]string {
	t.Helper()
	return map[string]string{
		"default": "main.git", "light": "main.git#light", "annotated": "main.git#annotated",
		"query-tag": "main.git?tag=annotated&checksum=" + s.commit(t, "main.git", "annotated"),
		"branch":    "main.git?branch=dev/x", "commit": "main.git#" + s.commit(t, "main.git", "light"),
		"checksum": "main.git?ref=main&commit=" + s.commit(t, "main.git", "main"),
		"sha256":   "sha256.git", "sha256-tag": "sha256.git#v1", "modules": "withsub.git", "deep": "deep.git",
		"sha256-commit":  "sha256.git#" + s.commit(t, "sha256.git", "main"),
		"no-modules":     "deep.git?submodules=false",
		"modules-commit": "withsub.git#" + s.commit(t, "withsub.git", "main"),
	}
}

// plainCases returns URLs whose files are compared, by name.
func plainCases(t *testing.T, s *gitSites) map[string]string {
	t.Helper()
	first, long := s.commit(t, "main.git", "light"), s.commit(t, "sha256.git", "main")
	return map[string]string{
		"full-tag": "main.git#refs/tags/light", "full-branch": "main.git#refs/heads/main",
		"heads": "main.git#heads/main", "slash": "main.git#dev/x", "query-ref": "main.git?ref=light",
		"mtime": "main.git?mtime=commit",
		"short": "main.git?checksum=" + s.commit(t, "main.git", "main")[:12], "deep": "deep.git#main",
		"peeled": "main.git?tag=annotated&checksum=" + first, "keep-false": "main.git?keep-git-dir=false",
		"sha256":  "sha256.git?branch=main&checksum=" + long,
		"modules": "withsub.git",
	}
}

// gitCases returns the targets with git repositories.
func gitCases(t *testing.T, s *gitSites) []sourceCase {
	t.Helper()
	const copyAll = "FROM scratch\nCOPY . /r/\n"
	var all []sourceCase
	keep := map[string]string{"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"}
	for server, url := range map[string]string{"smart": s.smart, "dumb": s.dumb} {
		// A URL for each: BuildKit adds the tags of what it fetched before from the same URL.
		for name, rest := range keptCases(t, s) {
			kept, added := "keep-"+server+"-"+name, "add-"+server+"-"+name
			all = append(all, sourceCase{name: kept, context: url + "/" + kept + "/" + rest, args: keep},
				sourceCase{name: added,
					dockerfile: "FROM scratch\nADD --keep-git-dir=true " + url + "/" + added + "/" + rest + " /r/\n"})
		}
		url += "/x/"
		for name, rest := range plainCases(t, s) {
			all = append(all, sourceCase{name: "plain-" + server + "-" + name, context: url + rest})
		}
		all = append(all,
			sourceCase{name: "named-" + server, dockerfile: "FROM scratch\nCOPY --from=n . /r/\n",
				named: map[string]string{"n": url + "main.git?keep-git-dir=true"}},
			sourceCase{name: "subdir-" + server, context: url + "main.git#main:d", dockerfile: copyAll, args: keep},
			sourceCase{name: "query-" + server, context: url + "main.git?subdir=d", dockerfile: copyAll, args: keep},
			sourceCase{name: "add-checksum-" + server, dockerfile: "FROM scratch\nADD --checksum=" +
				s.commit(t, "sha256.git", "main") + " " + url + "sha256.git#main /r/\n"})
	}
	return append(all,
		sourceCase{name: "fetch-by-commit", args: keep,
			context: s.smart + "/by/main.git?branch=main&fetch-by-commit&commit=" + s.commit(t, "main.git", "light")},
		sourceCase{name: "daemon", context: s.daemon + "/x/main.git"},
		sourceCase{name: "daemon-modules", context: s.daemon + "/x/deep.git#main"})
}

// epochCases returns the targets whose SOURCE_DATE_EPOCH comes from a source.
func epochCases(t *testing.T, s *gitSites) []sourceCase {
	t.Helper()
	sum := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(s.root, name))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("sha256:%x", sha256.Sum256(raw))
	}
	epoch := func(v string) map[string]string { return map[string]string{"SOURCE_DATE_EPOCH": v} }
	var all []sourceCase
	for name, url := range map[string]string{
		"git": s.smart + "/e/main.git#main", "git-tag": s.smart + "/e/main.git#annotated",
		"file": s.files + "/e/recipe", "sha256": s.dumb + "/e/sha256.git#v1", "archive": s.files + "/e/files.tar.gz",
	} {
		all = append(all,
			sourceCase{name: "epoch-" + name, context: url, args: epoch("context")},
			sourceCase{name: "epoch-named-" + name, args: epoch("n"), named: map[string]string{"n": url},
				dockerfile: strings.Replace(plainDockerfile, "COPY", "COPY --from=n", 1)},
			sourceCase{name: "epoch-unused-" + name, dockerfile: plainDockerfile, named: map[string]string{"n": url},
				args: epoch("n")},
			sourceCase{name: "epoch-stage-" + name, args: epoch("src"),
				dockerfile: "FROM scratch AS Src\nADD " + url + " /\n" + plainDockerfile})
	}
	for _, name := range []string{"recipe", "files.tar.gz", "text.gz"} {
		add := "FROM scratch AS src\nADD --checksum=" + sum(name) + " " + s.files + "/e/" + name + " /\n"
		all = append(all, sourceCase{name: "epoch-checksum-" + strings.ReplaceAll(name, ".", "-"),
			dockerfile: add + plainDockerfile, args: epoch("src")})
	}
	return append(all,
		sourceCase{name: "epoch-local", dockerfile: plainDockerfile, args: epoch("context")},
		sourceCase{name: "epoch-args", args: epoch("src"), dockerfile: "ARG U=" + s.smart + "/e/main.git\n" +
			"FROM scratch AS src\nARG R=main\nADD $U#$R /\n" + plainDockerfile},
		sourceCase{name: "epoch-two", args: epoch("src"), dockerfile: "FROM scratch AS src\nADD " + s.files +
			"/e/recipe " + s.files + "/e/text.gz /\n" + plainDockerfile},
		sourceCase{name: "epoch-unknown", args: epoch("nosuch"), dockerfile: plainDockerfile})
}

// fileCases returns the targets with files and archives by URL.
func fileCases(s *gitSites) []sourceCase {
	var all []sourceCase
	for _, name := range []string{"recipe", "files.tar.gz", "text.gz"} {
		url := s.files + "/f/" + name
		short, _, _ := strings.Cut(name, ".")
		all = append(all, sourceCase{name: "main-" + short, context: url},
			sourceCase{name: "named-" + short, dockerfile: "FROM scratch\nCOPY --from=n . /r/\n",
				named: map[string]string{"n": url}},
			sourceCase{name: "stage-" + short, dockerfile: "FROM n\nCOPY ctx /r/\n",
				named: map[string]string{"n": url}})
	}
	return append(all, sourceCase{name: "unused", dockerfile: "FROM scratch AS x\nCOPY --from=n . /\nFROM scratch\n" +
		"COPY . /r/\n", named: map[string]string{"n": s.files + "/f/nosuch", "m": s.smart + "/f/nosuch.git"}})
}

// writeSources writes the project of some cases for both programs.
func writeSources(t *testing.T, dir string, all []sourceCase) {
	t.Helper()
	targets := map[string]any{}
	var names []string
	for _, c := range all {
		target := map[string]any{"output": []string{"type=oci,dest=out/" + c.name + ".tar"}}
		if c.context != "" {
			target["context"] = c.context
		} else {
			target["context"] = "ctx"
		}
		if c.dockerfile != "" {
			target["dockerfile-inline"] = c.dockerfile
		}
		if c.named != nil {
			target["contexts"] = c.named
		}
		if c.args != nil {
			target["args"] = c.args
		}
		targets[c.name] = target
		names = append(names, c.name)
	}
	raw, err := json.Marshal(map[string]any{"target": targets, "group": map[string]any{
		"default": map[string]any{"targets": names}}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "docker-bake.json"), string(raw))
	writeFile(t, filepath.Join(dir, "ctx/ctx"), "x")
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// sourceFacts returns what each case gave: the epoch, the files, and what git says of the checkout.
func sourceFacts(t *testing.T, dir string, all []sourceCase) map[string]string {
	t.Helper()
	facts := map[string]string{}
	for _, c := range all {
		archive := filepath.Join(dir, "out", c.name+".tar")
		if outputOf(t, archive) != whole {
			facts[c.name] = "fails"
			continue
		}
		root := t.TempDir()
		lines := []string{unpackImage(t, archive, root)}
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			if d.Name() == ".git" { // a submodule's leads into the daemon's own directory
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			text := ""
			if !d.IsDir() {
				raw, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text = string(raw)
			}
			lines = append(lines, fmt.Sprintf("%s %v %q", strings.TrimPrefix(path, root), info.Mode(), text))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(root, "r/.git")); err == nil {
			lines = append(lines, gitFacts(t, filepath.Join(root, "r"))...)
		}
		facts[c.name] = strings.Join(lines, "\n")
	}
	return facts
}

// gitFacts returns what git says of a checkout and its submodules.
func gitFacts(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	for _, args := range [][]string{
		{"rev-parse", "HEAD", "--abbrev-ref", "HEAD"}, {"for-each-ref"}, {"status"}, {"status", "--porcelain"},
		{"describe", "--always", "--tags"}, {"describe", "--always"}, {"tag", "--points-at", "HEAD"}, {"branch", "-a"},
		{"remote", "-v"}, {"log", "--format=%H %an %s %d"}, {"submodule", "status", "--recursive"},
		{"diff", "HEAD", "--stat"},
		{"rev-parse", "--show-object-format", "--is-shallow-repository"}, {"fsck"},
		{"submodule", "--quiet", "foreach", "--recursive", "git status --porcelain; git rev-parse HEAD; git remote -v"},
	} {
		text := regexp.MustCompile(`http://127.0.0.1:\d+/[^/]+`).ReplaceAllString(git(t, dir, args...), "http://SERVER")
		if args[0] == "submodule" {
			// The name in parentheses depends on the history of the submodule. BuildKit keeps one checkout of a commit
			// for both servers, and the one of plain files serves whole histories.
			text = regexp.MustCompile(` \([^()]*\)`).ReplaceAllString(text, "")
		}
		lines = append(lines, "git "+strings.Join(args, " ")+":\n"+text)
	}
	return lines
}

// TestSourcesAsInBuildKit shows that git repositories, archives and files give the files, the times and the .git that
// BuildKit gives: with the embedded engine, as an unprivileged user, and with BuildKit as the engine.
func TestSourcesAsInBuildKit(t *testing.T) {
	needSandbox(t)
	s := serveGit(t)
	all := slices.Concat(gitCases(t, s), epochCases(t, s), fileCases(s))
	slices.SortFunc(all, func(a, b sourceCase) int { return strings.Compare(a.name, b.name) })
	theirs := t.TempDir()
	writeSources(t, theirs, all)
	startBuildKit(t).bake(t, theirs)
	want := sourceFacts(t, theirs, all)
	if strings.Contains(want["keep-smart-annotated"], "fails") { // then all would be equal
		t.Fatal("BuildKit built nothing")
	}
	check := func(name string, c *cli, flags ...string) {
		t.Run(name, func(t *testing.T) {
			writeSources(t, c.dir, all)
			if c.user != nil {
				giveTo(t, c.user, c.dir)
				giveTo(t, c.user, c.cache)
			}
			_, stderr, _ := c.run(t, append([]string{"build", "--progress=none", "-j", "defer-error"}, flags...)...)
			if strings.Contains(stderr, c.cache) {
				t.Errorf("a message names a directory of the cache:\n%s", linesWith(stderr, c.cache))
			}
			got := sourceFacts(t, c.dir, all)
			for _, one := range all {
				if d := cmp.Diff(strings.Split(want[one.name], "\n"), strings.Split(got[one.name], "\n")); d != "" {
					t.Errorf("%s: want -, got +\n%s\n%s", one.name, d, linesWith(stderr, one.name))
				}
			}
		})
	}
	check("embedded", newCLI(t))
	check("engine", newCLI(t), "--engine", startDaemon(t, "").address)
	rootless := newCLI(t)
	rootless.user = testUser(t)
	check("rootless", rootless)
}
