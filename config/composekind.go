package config

import (
	"context"
	"fmt"

	"github.com/hashicorp/hcl/v2"
)

// FileKind is the syntax of a project file, or Compose.
type FileKind string

// The kinds of files. Each except Compose is the extension of a file in this syntax.
const (
	HCL     FileKind = ".hcl"
	JSON    FileKind = ".json"
	YAML    FileKind = ".yaml"
	Compose FileKind = "compose"
)

// ReadKind returns the content and the kind of a file of Docker Bake, as a build would read it.
func ReadKind(ctx context.Context, opts Options, name string) (raw []byte, kind FileKind, err error) {
	if raw, err = readFile(opts, name); err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	d, file, diags := parse(ctx, name, raw, false)
	if diags.HasErrors() {
		return nil, "", Diagnostics{list: diags, files: map[string]*hcl.File{name: file}}
	}
	if d.compose != nil {
		return raw, Compose, nil
	}
	return raw, FileKind(syntaxOf(name, raw)), nil
}
