package scaffold

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Bounds of a search.
const (
	maxFound = 2000    // Dockerfiles
	maxFile  = 1 << 20 // bytes of one
)

// found holds the files of a directory tree that say how to build images, as sorted relative paths with slashes.
type found struct {
	dockerfiles []string
	compose     []string
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

// find searches dir and the directories below it. A .bake or other hidden directory is skipped.
func find(dir string) (found, error) {
	var f found
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p != dir && os.IsPermission(err) {
				return fs.SkipDir
			}
			return err
		}
		name := d.Name()
		if d.IsDir() && p != dir && isSkipped(name) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || len(f.dockerfiles) == maxFound {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case isCompose(name):
			f.compose = append(f.compose, rel)
		case isDockerfileName(name) && isDockerfile(p):
			f.dockerfiles = append(f.dockerfiles, rel)
		}
		return nil
	})
	slices.Sort(f.dockerfiles)
	slices.SortFunc(f.compose, compareCompose)
	return f, err
}

// isCompose reports whether a name is one that compose files have: compose.yaml, docker-compose.prod.yml.
func isCompose(name string) bool {
	return regexp.MustCompile(`^(docker-)?compose([._-].*)?\.ya?ml$`).MatchString(name)
}

// compareCompose orders compose files: the usual names of the top first, since others may repeat their services.
func compareCompose(a, b string) int {
	rank := func(s string) int {
		usual := []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}
		if i := slices.Index(usual, s); i >= 0 {
			return i
		}
		return len(usual) + strings.Count(s, "/")
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

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}
