package scaffold

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Bounds of a search.
const (
	maxDockerfiles = 2000
	maxCompose     = 200
	maxFile        = 1 << 20 // bytes of a Dockerfile or an ignore file
)

// found holds the files of a directory tree that say how to build images, as sorted relative paths with slashes.
type found struct {
	dockerfiles []string
	compose     [][]string // each with the file that overrides it, if there is one
	notes       []string   // what was left out
}

// isSkipped reports whether a directory holds nothing that a maintainer builds from here: dependencies, test data,
// version control.
func isSkipped(name string) bool {
	switch name {
	case "node_modules", "vendor", "testdata", "test_data", "test-data", "fixtures", "__fixtures__", "__tests__",
		"site-packages", "third_party":
		return true
	}
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "-fixtures")
}

// find searches dir and the directories below it. A .bake or other hidden directory is skipped. A link counts as the
// file that it leads to if that is in dir.
func find(ctx context.Context, dir string) (found, error) {
	var f found
	var compose []string
	more := map[string]int{} // files beyond the bounds
	add := func(to *[]string, most int, what, file string) {
		if len(*to) == most {
			more[fmt.Sprintf("%d %s", most, what)]++
			return
		}
		*to = append(*to, file)
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return f, err
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p != dir && os.IsPermission(err) {
				return fs.SkipDir
			}
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		name := d.Name()
		if d.IsDir() {
			if p != dir && isSkipped(name) {
				return fs.SkipDir
			}
			return nil
		}
		isComposeFile := isCompose(name)
		if !isComposeFile && !isDockerfileName(name) || !isFileIn(root, p, d) {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		switch {
		case isComposeFile:
			add(&compose, maxCompose, "compose files", filepath.ToSlash(rel))
		case isDockerfile(p):
			add(&f.dockerfiles, maxDockerfiles, "Dockerfiles", filepath.ToSlash(rel))
		}
		return nil
	})
	slices.Sort(f.dockerfiles)
	f.group(compose)
	for what, n := range more {
		f.notes = append(f.notes, fmt.Sprintf("%d files were left out after %s; run bake init in a directory below",
			n, what))
	}
	slices.Sort(f.notes)
	return f, err
}

// isFileIn reports whether an entry is a regular file, or a link to one in root.
func isFileIn(root, path string, d fs.DirEntry) bool {
	if d.Type()&fs.ModeSymlink == 0 {
		return d.Type().IsRegular()
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(root, real)
	if err != nil || !filepath.IsLocal(rel) {
		return false
	}
	info, err := os.Stat(real)
	return err == nil && info.Mode().IsRegular()
}

// isCompose reports whether a name is one that compose files have: compose.yaml, docker-compose.prod.yml.
func isCompose(name string) bool {
	base, ok := strings.CutSuffix(name, ".yaml")
	if !ok {
		if base, ok = strings.CutSuffix(name, ".yml"); !ok {
			return false
		}
	}
	rest, ok := strings.CutPrefix(strings.TrimPrefix(base, "docker-"), "compose")
	return ok && (rest == "" || strings.ContainsAny(rest[:1], "._-"))
}

// usual returns the names of compose files that Docker Compose reads without -f, and those of the files that override
// them, by decreasing precedence.
func usual() (files, overrides []string) {
	return []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"},
		[]string{"compose.override.yml", "compose.override.yaml", "docker-compose.override.yml",
			"docker-compose.override.yaml"}
}

// group sets the compose files, the usual names of the top first, since others may repeat their services. The first
// override of a directory goes with its first usual name, as Docker Compose reads them.
func (f *found) group(compose []string) {
	names, overrides := usual()
	first := func(dir string, among []string) string {
		for _, name := range among {
			if file := path.Join(dir, name); slices.Contains(compose, file) {
				return file
			}
		}
		return ""
	}
	slices.SortFunc(compose, compareCompose)
	for _, file := range compose {
		dir, base := path.Split(file)
		main, override := first(dir, names), first(dir, overrides)
		switch {
		case slices.Contains(overrides, base) && main == "":
			f.notes = append(f.notes, file+" was left out: there is no compose file that it overrides")
		case slices.Contains(overrides, base) && file != override:
			f.notes = append(f.notes, file+" was left out: "+override+" takes precedence")
		case slices.Contains(overrides, base):
		case file == main && override != "":
			f.compose = append(f.compose, []string{file, override})
		default:
			f.compose = append(f.compose, []string{file})
		}
	}
}

// compareCompose orders compose files: the usual names of the top first, since others may repeat their services.
func compareCompose(a, b string) int {
	names, _ := usual()
	rank := func(s string) int {
		if i := slices.Index(names, s); i >= 0 {
			return i
		}
		return len(names) + strings.Count(s, "/")
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// isDockerfileName reports whether a file is a Dockerfile by its name: Dockerfile, Dockerfile.dev, Dockerfile-dev,
// dev.Dockerfile, api.dockerfile, Containerfile.
func isDockerfileName(name string) bool {
	lower := strings.ToLower(name)
	switch path.Ext(lower) {
	case ".dockerignore", ".containerignore", ".j2", ".jinja", ".jinja2", ".tmpl", ".tpl", ".template", ".erb", ".in",
		".mustache", ".md", ".rst", ".txt", ".bak", ".orig", ".rej", ".swp", ".lock", ".go", ".py", ".js", ".ts", ".sh",
		".json", ".yaml", ".yml", ".rb", ".patch", ".diff":
		return false
	}
	for _, word := range []string{"dockerfile", "containerfile"} {
		rest, ok := strings.CutPrefix(lower, word)
		if ok && (rest == "" || strings.ContainsAny(rest[:1], ".-_")) {
			return !strings.HasSuffix(lower, "~")
		}
		if strings.HasSuffix(lower, "."+word) {
			return true
		}
	}
	return false
}

// isDockerfile reports whether the content of a file is a Dockerfile and not a template or a part of one.
func isDockerfile(file string) bool {
	raw, err := read(file)
	if err != nil {
		return false
	}
	parsed, err := parser.Parse(bytes.NewReader(shortLines(raw)))
	if err != nil {
		return false
	}
	for _, n := range parsed.AST.Children {
		switch strings.ToLower(n.Value) {
		case "arg":
		case "from":
			return !strings.Contains(n.Original, "{{") && !strings.Contains(n.Original, "{%") &&
				!strings.Contains(n.Original, "@@")
		default:
			return false
		}
	}
	return false
}

// maxLine is the length of the longest line that the parser reads, in bytes.
const maxLine = 64<<10 - 1

// shortLines cuts lines that the parser cannot read. What is looked for stands at their start.
func shortLines(raw []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(raw) {
		if len(line) > maxLine {
			end := bytes.TrimRight(line, "\r\n")
			continues := bytes.HasSuffix(end, []byte(`\`)) || bytes.HasSuffix(end, []byte("`"))
			line = append(bytes.TrimRight(line[:maxLine-2:maxLine-2], "\\`"), ' ')
			if continues {
				line = append(line, end[len(end)-1])
			}
			line = append(line, '\n')
		}
		out.Write(line)
	}
	return out.Bytes()
}

// read returns the content of a Dockerfile or an ignore file.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return raw, err
}
