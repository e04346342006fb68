package scaffold

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
)

// From returns a project file for the named files: compose files are converted, and HCL files follow as they are, since
// a project file has the same syntax. Later files take precedence, as with -f. What a file is, its content says. ext is
// the extension of the new file: a single JSON or YAML file keeps its syntax.
func From(ctx context.Context, opts config.Options, files []string) (p Project, ext string, err error) {
	w := newWriter(opts)
	var compose [][]string // by directory
	var rest []string
	var texts []string
	kind := config.HCL
	for _, name := range files {
		raw, is, err := config.ReadKind(ctx, opts, name)
		if err != nil {
			return p, "", err
		}
		switch {
		case is == config.Compose:
			rel, err := filepath.Rel(opts.Dir, config.Absolute(opts.Dir, name))
			if err != nil || !filepath.IsLocal(rel) {
				return p, "", fmt.Errorf("%s is not below %s; copy it, or run bake init --from in its directory",
					name, opts.Dir)
			}
			compose = withCompose(compose, filepath.ToSlash(rel))
			continue
		case is != config.HCL && len(files) > 1:
			return p, "", fmt.Errorf("%s: only compose and HCL files can be combined; name it alone", name)
		}
		kind = is
		rest, texts = append(rest, name), append(texts, strings.TrimRight(string(raw), "\n")+"\n")
	}
	for _, files := range compose {
		if err := w.readCompose(ctx, files); err != nil {
			return p, "", err
		}
	}
	w.placeServices()
	if len(w.targets) == 0 && (len(rest) == 0 || len(w.project.Notes) > 0) {
		if len(w.project.Notes) > 0 {
			return p, "", errors.New(strings.Join(w.project.Notes, "\n"))
		}
		return p, "", fmt.Errorf("%s: no service has a build section", strings.Join(files, ", "))
	}
	if len(w.targets) > 0 {
		if p, err = w.finish(ctx); err != nil {
			return p, "", err
		}
	}
	if len(rest) == 0 {
		return p, string(kind), nil
	}
	more, err := w.checkText(ctx, rest)
	if err != nil {
		return p, "", err
	}
	if p.Text != "" {
		texts = append([]string{p.Text}, texts...)
	}
	p.Text = strings.Join(texts, "\n")
	p.Targets += more
	return p, string(kind), nil
}

// withCompose adds a compose file to the others of its directory, which it overrides.
func withCompose(all [][]string, name string) [][]string {
	for i, files := range all {
		if filepath.Dir(files[0]) == filepath.Dir(name) {
			all[i] = append(slices.Clone(files), name)
			return all
		}
	}
	return append(all, []string{name})
}

// checkText returns the number of targets in files whose syntax a project file has too. What the stricter rules of a
// project file refuse is an error.
func (w *writer) checkText(ctx context.Context, files []string) (int, error) {
	opts := config.Options{Dir: w.opts.Dir, Files: files, Env: map[string]string{}}
	names, err := config.TargetNames(ctx, opts)
	if err != nil {
		return 0, err
	}
	if len(names) == 0 {
		return 0, fmt.Errorf("%s: there is no target", strings.Join(files, ", "))
	}
	opts.Targets = names
	if _, warnings, err := config.Load(ctx, opts); err == nil && len(warnings) > 0 {
		first := warnings[0]
		return 0, fmt.Errorf("%s:%d:%d: %s; a project file refuses what is ignored, so correct it first",
			first.Range.File, first.Range.Line, first.Range.Col, first.Message)
	}
	return len(names), nil
}
