package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/compose-spec/compose-go/v2/dotenv"
)

// maxFile bounds one project file, in bytes.
const maxFile = 16 << 20

// source is the content of a project file.
type source struct {
	name    string
	content []byte
}

// usualFiles returns the files to look for if none is named. The first existing file of ours is read alone. If there
// is none, all existing files of theirs, the names of Docker Bake, are read by increasing precedence.
func usualFiles() (ours, theirs []string) {
	return []string{"bake.hcl", "bake.yaml", "bake.yml", "bake.json"},
		append(composeFiles(), "docker-bake.json", "docker-bake.hcl", "docker-bake.override.json",
			"docker-bake.override.hcl")
}

// UsualFiles returns the names of all files that Load looks for if Options names none.
func UsualFiles() []string {
	ours, theirs := usualFiles()
	return append(ours, theirs...)
}

// composeFiles returns the usual names of compose files.
func composeFiles() []string {
	return []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}
}

// findFiles reads the files of -f, else those of BUILDX_BAKE_FILE, else the usual ones.
func findFiles(ctx context.Context, o Options) ([]source, error) {
	files := o.explicitFiles()
	if len(files) == 0 {
		return readUsual(func(name string) ([]byte, error) { return readFile(o, name) }, o.Dir)
	}
	var all []source
	for _, name := range files {
		name = strings.TrimPrefix(name, "cwd://")
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		raw, err := readFile(o, name)
		if err != nil {
			return nil, fmt.Errorf("project file %s: %w", name, err)
		}
		all = append(all, source{name, raw})
	}
	return all, nil
}

// explicitFiles returns the files of -f, or else those of BUILDX_BAKE_FILE.
func (o Options) explicitFiles() []string {
	v := o.Env["BUILDX_BAKE_FILE"]
	if len(o.Files) > 0 || v == "" {
		return o.Files
	}
	separator := o.Env["BUILDX_BAKE_PATH_SEPARATOR"]
	if separator == "" {
		separator = string(os.PathListSeparator)
	}
	return slices.DeleteFunc(strings.Split(v, separator), func(s string) bool { return strings.TrimSpace(s) == "" })
}

// readUsual reads the usual files with read. place describes their location in messages.
func readUsual(read func(name string) ([]byte, error), place string) ([]source, error) {
	ours, theirs := usualFiles()
	for _, name := range ours {
		raw, err := read(name)
		if err == nil {
			return []source{{name, raw}}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("project file %s: %w", name, err)
		}
	}
	var all []source
	for _, name := range theirs {
		raw, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("project file %s: %w", name, err)
		}
		all = append(all, source{name, raw})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no project file in %s; create one with bake init, name one with -f, "+
			"or build a single Dockerfile (bake image build -t NAME .)", place)
	}
	return all, nil
}

func readFile(o Options, name string) ([]byte, error) {
	var r io.Reader = o.Stdin
	if name != "-" {
		path, err := o.view().File(o.absolute(filepath.Clean(name)))
		var f *os.File
		if err == nil {
			f, err = os.Open(path)
		}
		if err != nil {
			var p *fs.PathError
			if errors.As(err, &p) {
				return nil, p.Err
			}
			return nil, err
		}
		defer f.Close()
		r = f
	}
	if r == nil {
		return nil, errors.New("no standard input")
	}
	return readAll(r)
}

// readAll reads a project file of at most maxFile bytes.
func readAll(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return raw, err
}

// withEnvFiles returns o with the variables of its EnvFiles added to Env, which takes precedence over them.
func (o Options) withEnvFiles() (Options, error) {
	all := map[string]string{}
	maps.Copy(all, o.Env)
	for _, name := range slices.Backward(o.EnvFiles) {
		if err := o.addEnvFile(all, name, true); err != nil {
			return o, err
		}
	}
	o.Env = all
	return o, nil
}

// addEnvFile adds the variables of a file of NAME=VALUE lines to env, unless env has them.
func (o Options) addEnvFile(env map[string]string, name string, required bool) error {
	raw, err := readFile(o, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !required, errors.Is(err, syscall.EISDIR) && !required:
		return nil
	case err != nil:
		return fmt.Errorf("environment file %s: %w", name, err)
	}
	vars, err := dotenv.UnmarshalBytesWithLookup(raw,
		func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		return fmt.Errorf("environment file %s: %w", name, err)
	}
	for name, value := range vars {
		if _, ok := env[name]; !ok {
			env[name] = value
		}
	}
	return nil
}
