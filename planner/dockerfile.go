package planner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/bakebuild/bake/config"
)

const (
	defaultDockerfile = "Dockerfile"
	ignoreSuffix      = ".dockerignore"
)

// dockerfile is the Dockerfile of one target.
type dockerfile struct {
	name    string // base name; Dockerfile for an inline one
	data    []byte
	written []byte // the file before it is rewritten for the frontend
	display string // path in messages and locations
	ignore  []byte // content of DOCKERFILE.dockerignore; nil if there is none
	// lines maps the lines of data to those of the file: see rewriter.
	lines lineMap
	// joint is in data, and is removed from what the frontend makes of it; "" if there is none.
	joint string
}

// files returns the Dockerfile and its ignore file for the frontend.
func (d dockerfile) files() memoryFiles {
	m := memoryFiles{d.name: d.data}
	if d.ignore != nil {
		m[d.name+ignoreSuffix] = d.ignore
	}
	return m
}

// loadDockerfile reads and checks the Dockerfile of a target.
func (p *plan) loadDockerfile(t *config.Target, context localDir) (dockerfile, error) {
	var d dockerfile
	if t.DockerfileInline != nil {
		d = dockerfile{name: defaultDockerfile, data: []byte(*t.DockerfileInline), display: "dockerfile-inline of " +
			t.Name}
		if len(d.data) > maxFile {
			return d, p.targetError(t, "dockerfile-inline",
				fmt.Errorf("dockerfile-inline is larger than %d bytes", maxFile))
		}
	} else {
		var err error
		if d, err = p.readDockerfile(t, context); err != nil {
			return d, err
		}
	}
	if len(d.data) == 0 {
		return d, &DockerfileError{Target: t.Name, File: d.display,
			Err: errors.New("the Dockerfile is empty; it needs at least a FROM instruction")}
	}
	r, err := rewriteDockerfile(d.data)
	if err != nil {
		return d, d.longLine(t.Name, err)
	}
	d.written, d.data, d.lines, d.joint = d.data, r.data, r.lines, r.joint
	if err := p.checkDockerfile(t, d); err != nil {
		return d, err
	}
	return d, nil
}

func (p *plan) readDockerfile(t *config.Target, context localDir) (dockerfile, error) {
	written := t.Dockerfile
	if written == "" {
		written = defaultDockerfile
	}
	var in localDir // the context of the file, unless the path is absolute or relative to the project
	path, fromCwd := strings.CutPrefix(written, "cwd://")
	switch {
	case filepath.IsAbs(path):
	case fromCwd:
		path = filepath.Join(p.project.Dir, path)
	case context.dir == "":
		return dockerfile{}, p.targetError(t, "context", &remoteError{t.Context})
	case context.file: // as in BuildKit, whatever the target's dockerfile
		path, in = filepath.Join(context.dir, ContextFile), context
	default:
		path, in = filepath.Join(context.dir, path), context
	}
	path = filepath.Clean(path)
	data, err := p.files.getIn(in, path)
	if errors.Is(err, fs.ErrNotExist) && filepath.Base(path) == defaultDockerfile {
		lower := filepath.Join(filepath.Dir(path), strings.ToLower(defaultDockerfile))
		if d, err1 := p.files.getIn(in, lower); err1 == nil {
			path, data, err = lower, d, nil
		}
	}
	display := p.displayPath(in, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dockerfile{}, p.targetError(t, "dockerfile", fmt.Errorf(
			"no Dockerfile at %s; create it, or set the target's dockerfile, relative to its context %s "+
				"(bake image build: -f)",
			display, dirOrDot(t.Context)))
	case err != nil:
		return dockerfile{}, p.targetError(t, "dockerfile", fmt.Errorf("read Dockerfile %s: %w", display, cause(err)))
	}
	if err := p.checkRego(t, in, path); err != nil {
		return dockerfile{}, err
	}
	d := dockerfile{name: filepath.Base(path), data: data, display: display}
	if in.url != "" { // as in BuildKit, its ignore file does not count
		return d, nil
	}
	d.ignore, err = p.files.getIn(in, path+ignoreSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, p.targetError(t, "dockerfile", fmt.Errorf("read %s: %w", display+ignoreSuffix, cause(err)))
	}
	if err == nil && d.ignore == nil {
		d.ignore = []byte{}
	}
	if d.ignore, err = shortIgnore(display+ignoreSuffix, d.ignore); err != nil {
		return d, d.frontEndError(t.Name, err)
	}
	return d, nil
}

// checkDockerfile returns an error for a Dockerfile that needs another frontend or exceeds the limits of checkBounds.
func (p *plan) checkDockerfile(t *config.Target, d dockerfile) error {
	if syntax := t.Args["BUILDKIT_SYNTAX"]; syntax != "" && !builtIn(syntax) {
		return p.targetError(t, "args", externalError(syntax))
	}
	if syntax, line := syntaxOf(d.data); syntax != "" && !builtIn(syntax) {
		return &DockerfileError{Target: t.Name, File: d.display, Line: line, Err: externalError(syntax)}
	}
	return checkBounds(t, d)
}

// syntaxOf returns the frontend that a Dockerfile requests and the line of the request, or "".
func syntaxOf(data []byte) (string, int) {
	if !bytes.Contains(bytes.ToLower(data[:min(len(data), 1<<14)]), []byte("syntax")) {
		return "", 0 // avoids the cost of DetectSyntax
	}
	syntax, _, at, ok := parser.DetectSyntax(data)
	if !ok {
		return "", 0
	}
	line := 1
	if len(at) > 0 {
		line = max(line, at[0].Start.Line)
	}
	return syntax, line
}

func externalError(syntax string) error {
	return fmt.Errorf("custom frontend %s is not supported; remove the \"# syntax=\" line, "+
		"or use docker/dockerfile:1", syntax)
}

// builtIn reports whether a syntax line requests the built-in Dockerfile frontend: the official image, by tag or
// digest, from Docker Hub or a mirror of it. The version is ignored: newer versions only add features, and the
// frontend reports what it does not support.
func builtIn(syntax string) bool {
	ref, _, _ := strings.Cut(strings.TrimSpace(syntax), " ")
	if ref == "dockerfile.v0" {
		return true
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	path := "/" + reference.Path(named)
	return strings.HasSuffix(path, "/docker/dockerfile") || strings.HasSuffix(path, "/docker/dockerfile-upstream")
}
