package scaffold

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
)

// From returns a project file for the named files of dir: compose files are converted, and HCL files follow as they
// are, since a project file has the same syntax. Later files take precedence, as with -f. ext is the extension of the
// new file: a single JSON file stays JSON.
func From(ctx context.Context, dir string, files []string) (p Project, ext string, err error) {
	if len(files) == 1 && path.Ext(files[0]) == ".json" {
		return fromText(ctx, dir, files)
	}
	w := &writer{dir: dir, used: map[string]bool{"default": true}, built: map[string]string{}}
	var rest []string
	for _, name := range files {
		switch strings.ToLower(path.Ext(name)) {
		case ".yml", ".yaml":
			before := len(w.project.Notes)
			if w.addCompose(ctx, filepath.ToSlash(name)); len(w.project.Notes) > before {
				return p, "", errors.New(w.project.Notes[before])
			}
		case ".json":
			return p, "", fmt.Errorf("%s: a JSON file cannot be combined with others; name it alone", name)
		default:
			rest = append(rest, name)
		}
	}
	if len(w.targets) > 0 {
		p = w.finish()
	}
	if len(rest) == 0 {
		if len(w.targets) == 0 {
			return p, "", ErrNothing{dir}
		}
		return p, ".hcl", nil
	}
	more, ext, err := fromText(ctx, dir, rest)
	if err != nil {
		return p, "", err
	}
	if p.Text != "" {
		more.Text = p.Text + "\n" + more.Text
	}
	more.Targets += p.Targets
	more.Compose, more.Notes = p.Compose, slices.Concat(p.Notes, more.Notes)
	return more, ext, nil
}

// fromText returns the text of files whose syntax a project file has too. What the stricter rules of a project file
// refuse is an error.
func fromText(ctx context.Context, dir string, files []string) (p Project, ext string, err error) {
	ext = ".hcl"
	if path.Ext(files[0]) == ".json" {
		ext = ".json"
	}
	opts := config.Options{Dir: dir, Files: files, Env: map[string]string{}}
	names, err := config.TargetNames(ctx, opts)
	if err != nil {
		return p, "", err
	}
	if len(names) == 0 {
		return p, "", ErrNothing{dir}
	}
	opts.Targets = names
	if _, warnings, err := config.Load(ctx, opts); err == nil && len(warnings) > 0 {
		first := warnings[0]
		return p, "", fmt.Errorf("%s:%d:%d: %s; a project file refuses what is ignored, so correct it first",
			first.Range.File, first.Range.Line, first.Range.Col, first.Message)
	}
	p.Targets = len(names)
	var texts []string
	for _, name := range files {
		raw, err := read(filepath.Join(dir, name))
		if err != nil {
			return p, "", fmt.Errorf("%s: %w", name, errors.Unwrap(err))
		}
		texts = append(texts, strings.TrimRight(string(raw), "\n")+"\n")
	}
	p.Text = strings.Join(texts, "\n")
	return p, ext, nil
}
