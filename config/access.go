package config

import (
	"path/filepath"
	"slices"
	"strings"
)

// FileUse is a file or directory of this machine that a target reads or writes.
type FileUse struct {
	Attribute string
	Path      string // as written, relative to Project.Dir; links are not resolved
	Write     bool
	// Derived reports that the path is read only because another one is, which is in the same directory or is that
	// directory. It needs no grant of its own unless it is a link.
	Derived bool
}

// FileUses returns every file and directory of this machine that a target names, whatever its other attributes are. It
// is the only such list: Grants compares it with what the user permits. TestFileUses fails if an attribute is added
// that it does not classify.
//
// What a path means depends on its own attribute only, with one exception: a relative Dockerfile belongs to the
// context. If that is a URL, the Dockerfile is a fetched file, from which nothing leads outside.
func (t *Target) FileUses() []FileUse {
	var all []FileUse
	add := func(attribute, path string, write bool) {
		all = append(all, FileUse{Attribute: attribute, Path: path, Write: write})
	}
	derived := func(attribute, path string) {
		all = append(all, FileUse{Attribute: attribute, Path: path, Derived: true})
	}
	dir, isDir := "", false
	if c := MainContext(t.Context); c.Kind == ContextDir {
		dir, isDir = c.Rest, true
		add("context", dir, false)
		derived("context", filepath.Join(dir, ignoreFile))
	}
	if t.DockerfileInline == nil {
		for i, path := range t.dockerfilePaths(dir, isDir) {
			if i == 0 {
				add("dockerfile", path, false)
				continue
			}
			derived("dockerfile", path)
		}
	}
	for _, value := range t.Contexts {
		if c := NamedContext(value); c.Kind == ContextDir || c.Kind == ContextLayout {
			add("contexts", c.Rest, false)
			if c.Kind == ContextDir {
				derived("contexts", filepath.Join(c.Rest, ignoreFile))
			}
		}
	}
	for _, s := range t.Secrets {
		if s.Src != "" {
			add("secret", s.Src, false)
		}
	}
	for _, s := range t.SSH {
		for _, p := range s.Paths {
			add("ssh", p, false)
		}
	}
	for _, path := range t.Structures {
		add("test", path, false)
	}
	for attribute, entries := range map[string][]Attrs{
		"output": t.Outputs, "cache-from": t.CacheFrom, "cache-to": t.CacheTo,
	} {
		for _, entry := range entries {
			for key, path := range entry {
				if write, isPath := pathKeys()[key]; isPath && path != "" && path != "-" {
					add(attribute, path, write)
				}
			}
		}
	}
	return all
}

// ignoreFile is the name of the file with ignore patterns, and the suffix of one for a Dockerfile.
const ignoreFile = ".dockerignore"

// pathKeys returns the keys of outputs and caches whose values are paths, and whether these are written. A key counts
// for every type, also for types to which it means nothing.
func pathKeys() map[string]bool { return map[string]bool{"dest": true, "src": false} }

// RegoSuffix is the suffix of the policy in Rego next to a Dockerfile.
const RegoSuffix = ".rego"

// dockerfilePaths returns the path of the Dockerfile of a target, then the paths next to it that may be read too.
func (t *Target) dockerfilePaths(dir string, isDir bool) []string {
	path, inCwd := strings.CutPrefix(t.Dockerfile, "cwd://")
	switch {
	case inCwd, filepath.IsAbs(path):
	case isDir:
		path = filepath.Join(dir, path)
	default:
		return nil
	}
	all := []string{path, path + ignoreFile, path + RegoSuffix}
	if filepath.Base(path) == "Dockerfile" {
		lower := filepath.Join(filepath.Dir(path), "dockerfile")
		all = append(all, lower, lower+ignoreFile, lower+RegoSuffix)
	}
	return all
}

// readable lists the files that reading the project files needed in addition to those that the user named, and the
// directories in which they may be without a grant.
func (p *Project) readable() (files, dirs []string) {
	for _, f := range slices.Concat(p.Read, p.Included) {
		if !slices.Contains(p.Named, f) {
			files = append(files, f)
		}
	}
	for _, r := range p.Registries {
		if p.Remote == "" { // those of a remote definition are ignored
			files = append(files, r.CA...)
		}
	}
	for _, f := range p.Named {
		dirs = append(dirs, filepath.Dir(f))
	}
	if p.Root != "" {
		dirs = append(dirs, p.Root)
	}
	return files, dirs
}
