package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	digest "github.com/opencontainers/go-digest"
)

// LockName is the name of the lock file, beside the project file.
const LockName = "bake.lock"

// lockVersion is the only version of the format there is.
const lockVersion = 1

// maxLock bounds the size of a lock file in bytes.
const maxLock = 8 << 20

// Lock says what the references of a project stand for, so that a tag which moves does not move the builds.
type Lock struct {
	// Images are digests by normalised reference, such as docker.io/library/golang:1.26: of the index where the tag names
	// one, so that a pin holds for every platform.
	Images map[string]digest.Digest
}

// lockFile is the form of the file.
type lockFile struct {
	Version int         `hcl:"version"`
	Images  []lockImage `hcl:"image,block"`
}

type lockImage struct {
	Ref    string    `hcl:"ref,label"`
	Digest string    `hcl:"digest"`
	At     hcl.Range `hcl:",def_range"`
}

// ReadLock reads the lock file of a directory; nil when there is none. The error is of type Diagnostics, or about reading.
func ReadLock(dir string) (*Lock, error) {
	file, err := os.Open(filepath.Join(dir, LockName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	src, err := io.ReadAll(io.LimitReader(file, maxLock+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", LockName, err)
	}
	return ParseLock(LockName, src)
}

// ParseLock reads a lock file. name is its name in messages.
func ParseLock(name string, src []byte) (*Lock, error) {
	if len(src) > maxLock {
		return nil, Diagnostics{list: hcl.Diagnostics{problem(nil, "%s has more than %d bytes", name, maxLock)}}
	}
	file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	files := map[string]*hcl.File{name: file}
	var written lockFile
	if !diags.HasErrors() {
		diags = append(diags, gohcl.DecodeBody(file.Body, nil, &written)...)
	}
	if diags.HasErrors() {
		return nil, Diagnostics{list: diags, files: files}
	}
	if written.Version != lockVersion {
		at := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
		return nil, Diagnostics{list: hcl.Diagnostics{problem(&at, "version %d of the lock is unknown: this bake knows %d", written.Version, lockVersion)}, files: files}
	}
	l := &Lock{Images: map[string]digest.Digest{}}
	for _, i := range written.Images {
		d := digest.Digest(i.Digest)
		if err := d.Validate(); err != nil {
			diags = append(diags, problem(&i.At, "the digest of %s is not like sha256:…: %v", i.Ref, err))
		}
		if _, twice := l.Images[i.Ref]; twice {
			diags = append(diags, problem(&i.At, "%s is locked twice: keep one of the blocks", i.Ref))
		}
		l.Images[i.Ref] = d
	}
	if diags.HasErrors() {
		return nil, Diagnostics{list: diags, files: files}
	}
	return l, nil
}

// Format is the file of a lock: sorted, a block for each reference with nothing in it that another line decides, so that
// changes of different ones merge.
func (l *Lock) Format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Written by `bake pin`. Pins what the project is built on. Commit it.\nversion = %d\n", lockVersion)
	for _, ref := range slices.Sorted(maps.Keys(l.Images)) {
		fmt.Fprintf(&b, "\nimage %q {\n  digest = %q\n}\n", ref, l.Images[ref])
	}
	return b.Bytes()
}

// Write writes the lock file of a directory, whole or not at all.
func (l *Lock) Write(dir string) error {
	if err := renameio.WriteFile(filepath.Join(dir, LockName), l.Format(), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", LockName, err)
	}
	return nil
}
