package config

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// Bounds of all project files together, since includes may read many.
const (
	maxFiles = 10_000
	maxTotal = 64 << 20 // bytes of all files
)

// reader reads project files and the files they include, each file once.
type reader struct {
	opts      Options
	functions map[string]function.Function
	seen      map[string]bool // by path
	total     int             // bytes
	remote    *remote
	relative  bool // contexts are relative to the file that defines them
	docs      []*document
	compose   []*document
	files     map[string]*hcl.File
	warnings  hcl.Diagnostics
	included  []string // absolute paths of the local files that files include
}

// noteSources records which of the files at which reading starts the user named, and which have a usual name.
func (l *loader) noteSources(sources []source) {
	explicit := l.opts.explicitFiles()
	for _, name := range explicit {
		path, inCwd := strings.CutPrefix(name, "cwd://")
		if name != "-" && (inCwd || l.remote == nil) {
			l.named = append(l.named, Absolute(l.opts.Dir, path))
		}
	}
	for _, s := range sources {
		if len(explicit) == 0 && l.remote == nil {
			l.localRead = append(l.localRead, Absolute(l.opts.Dir, s.name))
		}
	}
}

// read reads and parses all files and puts them into l.docs by increasing precedence: the compose files merged into
// one document, then the others in the requested order. A file comes after the files that it includes, so it can
// override them.
func (l *loader) read(ctx context.Context) hcl.Diagnostics {
	find := func() ([]source, error) { return findFiles(ctx, l.opts) }
	if l.remote != nil {
		find = func() ([]source, error) { return l.remote.sources(ctx, l.opts) }
	}
	sources, err := find()
	if err != nil {
		return hcl.Diagnostics{problem(nil, "%v", err)}
	}
	r := &reader{opts: l.opts, functions: l.scope.functions, seen: map[string]bool{}, files: l.files, remote: l.remote,
		relative: isTrue(l.opts.Env["BUILDX_BAKE_FILE_RELATIVE_PATHS"])}
	var diags hcl.Diagnostics
	l.noteSources(sources)
	for _, s := range sources {
		diags = append(diags, r.add(ctx, s, nil)...)
	}
	l.localRead = append(l.localRead, r.included...)
	for _, s := range r.files {
		l.anySelf = l.anySelf || bytes.Contains(s.Bytes, []byte(selfName))
	}
	l.docs, l.warnings = r.docs, append(l.warnings, r.warnings...)
	if len(r.compose) > 0 && !diags.HasErrors() {
		d, more := l.readCompose(ctx, r.compose)
		diags = append(diags, more...)
		l.docs = append([]*document{d}, l.docs...)
		for _, c := range r.compose {
			l.names = append(l.names, c.name)
		}
	}
	for _, d := range r.docs {
		l.names = append(l.names, d.name)
	}
	return diags
}

// add parses a file and reads the files that it includes. by is the including file, or nil for a requested file.
func (r *reader) add(ctx context.Context, s source, by *document) hcl.Diagnostics {
	if err := ctx.Err(); err != nil {
		return hcl.Diagnostics{problem(nil, "%v", err)}
	}
	if s.name != "-" {
		path := r.opts.absolute(s.name)
		if r.seen[path] {
			return nil
		}
		r.seen[path] = true
	}
	if r.total += len(s.content); r.total > maxTotal || len(r.seen) > maxFiles {
		return hcl.Diagnostics{problem(nil,
			"project file %s: more than %d project files or %d bytes in total", s.name, maxFiles, maxTotal)}
	}
	d, file, parsed := parse(ctx, s.name, s.content, by != nil)
	r.files[s.name] = file
	diags := r.splitWarnings(parsed)
	if d.compose != nil {
		if by != nil {
			return append(diags, problem(nil, "%s: a compose file cannot be included; name it with -f", s.name))
		}
		r.compose = append(r.compose, d)
		return diags
	}
	if by != nil {
		d.dir = filepath.Dir(s.name)
	}
	if d.contextDir = d.dir; r.relative && s.name != "-" {
		d.contextDir = filepath.Dir(s.name)
	}
	if d.root != nil && d.strict {
		diags = append(diags, r.include(ctx, d)...)
	}
	r.docs = append(r.docs, d)
	return diags
}

// splitWarnings appends the warnings to r.warnings and returns the errors.
func (r *reader) splitWarnings(all hcl.Diagnostics) hcl.Diagnostics {
	var errs hcl.Diagnostics
	for _, one := range all {
		if one.Severity == hcl.DiagWarning {
			r.warnings = append(r.warnings, one)
			continue
		}
		errs = append(errs, one)
	}
	return errs
}

// include reads the files that the attribute "include" of d lists: paths and patterns relative to d. It cannot use
// variables, because an included file may define or override them.
func (r *reader) include(ctx context.Context, d *document) hcl.Diagnostics {
	a := d.root.attrs["include"]
	if a == nil {
		return nil
	}
	delete(d.root.attrs, "include")
	at := a.Expr.Range()
	if refs := a.Expr.Variables(); len(refs) > 0 {
		at := refs[0].SourceRange()
		return hcl.Diagnostics{problem(&at,
			"include cannot use %s: it is read before variables are evaluated; write paths or patterns",
			refs[0].RootName())}
	}
	v, diags := a.Expr.Value(&hcl.EvalContext{Variables: map[string]cty.Value{}, Functions: r.functions})
	if diags.HasErrors() {
		return diags
	}
	list, diags := attribute{name: "include", kind: kindStrings}.decode(v, &at)
	paths, _ := list.([]string)
	for _, p := range paths {
		diags = append(diags, r.includePath(ctx, d, p, &at)...)
	}
	return diags
}

func (r *reader) includePath(ctx context.Context, d *document, written string, at *hcl.Range) hcl.Diagnostics {
	if strings.Contains(written, "://") {
		return hcl.Diagnostics{problem(at, "include %q: a URL cannot be included; use a path", written)}
	}
	join := func(dir string) string {
		if filepath.IsAbs(written) {
			return written
		}
		return filepath.Join(dir, written)
	}
	found := []string{join(filepath.Dir(d.name))}
	if strings.ContainsAny(written, "*?[") {
		var err error
		if found, err = r.glob(join(escapeGlob.Replace(filepath.Dir(d.name)))); err != nil {
			return hcl.Diagnostics{problem(at, "include %q: invalid pattern", written)}
		}
		if len(found) == 0 {
			return hcl.Diagnostics{problem(at, "include %q: no file matches", written)}
		}
		slices.Sort(found)
	}
	var diags hcl.Diagnostics
	for _, name := range found {
		if rel, err := filepath.Rel(r.opts.Dir, name); err == nil && filepath.IsAbs(name) && !filepath.IsAbs(written) {
			name = rel
		}
		raw, err := r.read(name)
		if r.remote == nil {
			r.included = append(r.included, Absolute(r.opts.Dir, name))
		}
		if err != nil {
			diags = append(diags, problem(at, "include %q: %v", written, fmt.Errorf("%s: %w", name, err)))
			continue
		}
		for _, one := range r.add(ctx, source{name, raw}, d) {
			if one.Subject == nil {
				one.Subject = at
			}
			diags = append(diags, one)
		}
	}
	return diags
}

func (r *reader) glob(pattern string) ([]string, error) {
	if r.remote != nil {
		return fs.Glob(r.remote.root.FS(), filepath.ToSlash(pattern))
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(escapeGlob.Replace(r.opts.Dir), pattern)
	}
	return r.opts.view().Glob(pattern)
}

// escapeGlob turns a path into a pattern that matches only this path.
var escapeGlob = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)

func (r *reader) read(name string) ([]byte, error) {
	if r.remote != nil {
		return r.remote.read(name)
	}
	return readFile(r.opts, name)
}
