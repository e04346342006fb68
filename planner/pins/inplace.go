package pins

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

// PinnedFile is what PinInPlace did with one Dockerfile.
type PinnedFile struct {
	Name    string // as the plan names it
	Changed bool
	Skipped string             // why the file was not read; "" otherwise
	Left    []planner.Unpinned // references that cannot get a digest
}

// PinInPlace writes the digests that the plan resolved into the Dockerfiles that name the images. Files below cacheDir
// were fetched from a URL and are skipped. After an error the files before it are changed, and returned.
func (p *Plan) PinInPlace(cacheDir string) ([]PinnedFile, error) {
	digests, names := map[string]digest.Digest{}, map[string]bool{}
	for _, b := range p.Graph.Bases {
		if !strings.Contains(b.Ref, "@") {
			digests[b.Ref] = b.Digest
		}
		for _, at := range b.Places {
			names[at.File] = true
		}
	}
	var files []PinnedFile
	for _, name := range slices.Sorted(maps.Keys(names)) {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.Project.Dir, path)
		}
		if rel, err := filepath.Rel(cacheDir, path); err == nil && filepath.IsLocal(rel) {
			files = append(files, PinnedFile{Name: name, Skipped: "it was fetched from a URL"})
			continue
		}
		file, err := pinFile(name, path, func(ref string) digest.Digest { return digests[ref] })
		files = append(files, file)
		if err != nil {
			return files, err
		}
	}
	return files, nil
}

// pinFile rewrites one Dockerfile atomically if a digest is added. It follows symbolic links and keeps the mode.
func pinFile(name, path string, pins func(string) digest.Digest) (PinnedFile, error) {
	file := PinnedFile{Name: name}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		file.Skipped = "it is not a file" // an inline Dockerfile
		return file, nil
	}
	if err != nil {
		return file, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return file, err
	}
	data, err := os.ReadFile(real)
	if err != nil {
		return file, err
	}
	var pinned []byte
	pinned, file.Left = planner.PinDockerfile(data, pins)
	if string(pinned) == string(data) {
		return file, nil
	}
	perm := info.Mode().Perm()
	if err := renameio.WriteFile(real, pinned, perm, renameio.WithStaticPermissions(perm)); err != nil {
		return file, fmt.Errorf("write %s: %w", name, err)
	}
	file.Changed = true
	return file, nil
}
