package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/planner"
)

// pinInPlace writes the digests of a plan into the Dockerfiles that name the images.
func (a *app) pinInPlace(p *lockPlan) error {
	digests, files := map[string]digest.Digest{}, map[string]bool{}
	for _, b := range p.graph.Bases {
		if !strings.Contains(b.Ref, "@") {
			digests[b.Ref] = b.Digest
		}
		for _, at := range b.Places {
			files[at.File] = true
		}
	}
	cacheDir, err := a.cacheDir()
	if err != nil {
		return err
	}
	for _, shown := range slices.Sorted(maps.Keys(files)) {
		path := shown
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.project.Dir, path)
		}
		if rel, err := filepath.Rel(cacheDir, path); err == nil && filepath.IsLocal(rel) {
			a.note("%s was fetched from elsewhere: it stays as it is", shown)
			continue
		}
		if err := a.pinFile(shown, path, func(ref string) digest.Digest { return digests[ref] }); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.project.Bases)) {
		b := p.project.Bases[name]
		a.note("%sbase %s stays as it is: bake.lock pins it", placeOfRange(b.Range), name)
	}
	return nil
}

// pinFile rewrites one Dockerfile, whole or not at all, where that changes it. A link stays one.
func (a *app) pinFile(shown, path string, pins func(string) digest.Digest) error {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.note("%s is no file: it stays as it is", shown)
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(real)
	if err != nil {
		return err
	}
	pinned, left := planner.PinDockerfile(data, pins)
	for _, l := range left {
		a.note("%s:%d: %s stays as it is: only a reference without variables can be given a digest", shown, l.Line, l.Word)
	}
	if string(pinned) == string(data) {
		return nil
	}
	if err := renameio.WriteFile(real, pinned, info.Mode().Perm(), renameio.WithStaticPermissions(info.Mode().Perm())); err != nil {
		return fmt.Errorf("write %s: %w", shown, err)
	}
	_, err = fmt.Fprintln(a.stdout, shown)
	return err
}
