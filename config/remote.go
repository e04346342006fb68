package config

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Fetcher fetches the content of a URL into a local directory to which no other process writes. If the URL names a
// single file that is not an archive, file is its name in dir.
type Fetcher interface {
	Fetch(ctx context.Context, url string) (dir, file string, err error)
}

// Definition is a project whose files are at a URL.
//
// Its author is not trusted. Its files are read through an os.Root, so that no link or ".." leaves the fetched
// directory. Relative contexts become URLs of the definition, never local paths; only a context that starts with
// cwd:// is local, and it needs a grant. Its compose files cannot include, extend or read env files. Only the user
// can add local project files to it, with -f cwd://FILE.
type Definition struct {
	URL string // of a git repository, or an http(s) URL of a file or an archive
	// Context is the value of BAKE_CMD_CONTEXT, a URL; if empty, it is the working directory.
	Context string
	Fetcher Fetcher
}

// remote is a fetched definition.
type remote struct {
	url  string // base of relative contexts; "" if the definition is a single file
	root *os.Root
	file string // the name of the single file, or ""
}

func (d *Definition) open(ctx context.Context) (*remote, error) {
	dir, file, err := d.Fetcher.Fetch(ctx, d.URL)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if file != "" {
		return &remote{root: root, file: file}, nil
	}
	return &remote{url: d.URL, root: root}, nil
}

// sources reads the named files of a definition, or the usual ones. Names that start with cwd:// are local files.
func (r *remote) sources(ctx context.Context, o Options) ([]source, error) {
	local := Options{Dir: o.Dir, Stdin: o.Stdin}
	var all []source
	for _, name := range o.explicitFiles() {
		if path, ok := strings.CutPrefix(name, "cwd://"); ok {
			local.Files = append(local.Files, path)
			continue
		}
		raw, err := r.read(name)
		if err != nil {
			return nil, fmt.Errorf("project file %s of %s: %w", name, o.Definition.URL, err)
		}
		all = append(all, source{name, raw})
	}
	var err error
	switch {
	case len(all) > 0:
	case r.file != "":
		var raw []byte
		if raw, err = r.read(r.file); err == nil {
			all = append(all, source{r.file, raw})
		}
	default:
		all, err = readUsual(r.read, o.Definition.URL)
	}
	if err != nil || len(local.Files) == 0 {
		return all, err
	}
	more, err := findFiles(ctx, local)
	return append(all, more...), err
}

// read reads a file of the definition. It cannot leave r.root.
func (r *remote) read(name string) ([]byte, error) {
	f, err := r.root.Open(filepath.Clean(name))
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			return nil, p.Err
		}
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// resolveContext returns the URL of a relative context of the definition. Absolute and cwd:// paths and URLs stay as
// they are.
func (r *remote) resolveContext(context string) (string, error) {
	if r.url == "" || strings.HasPrefix(context, "cwd://") || rebased("x", context) == context {
		return context, nil
	}
	sub := path.Clean(context)
	if sub == "." {
		return r.url, nil
	}
	if sub == ".." || strings.HasPrefix(sub, "../") {
		return "", fmt.Errorf("context %s is outside of %s", context, r.url)
	}
	return withSubdir(r.url, sub), nil
}

// withSubdir returns a URL with a subdirectory, in the query if the URL has one there, and otherwise in the fragment.
func withSubdir(rawURL, sub string) string {
	base, fragment, _ := strings.Cut(rawURL, "#")
	ref, old, _ := strings.Cut(fragment, ":")
	if u, err := url.Parse(rawURL); err == nil && fragment == "" && u.Query().Has("subdir") {
		q := u.Query()
		q.Set("subdir", path.Join(q.Get("subdir"), sub))
		u.RawQuery = q.Encode()
		return u.String()
	}
	return base + "#" + ref + ":" + path.Join(old, sub)
}
