package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/template"
	"gopkg.in/yaml.v3"
)

// composeInclude is an entry of the attribute include of a compose file.
type composeInclude struct {
	Path      oneOrMany `yaml:"path"`
	EnvFile   oneOrMany `yaml:"env_file"`
	Directory string    `yaml:"project_directory"`
}

// oneOrMany is a string or a list of strings.
type oneOrMany []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (o *oneOrMany) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*o = oneOrMany{n.Value}
		return nil
	}
	return n.Decode((*[]string)(o))
}

// includedEnvFiles returns the files of variables that the includes of compose files may read. compose-go reads them by
// itself and reports none. found lists the files that the given ones include or extend. The result may have too many
// files but misses none: a path is tried in each directory that has a compose file, and a path with a variable that env
// does not define counts as every path, "/".
func includedEnvFiles(o Options, files []*document, found []string, env map[string]string) []string {
	dirs := []string{o.Dir}
	var includes []composeInclude
	for _, f := range files {
		includes = append(includes, composeIncludes(f.raw)...)
	}
	for _, path := range found {
		if dir := filepath.Dir(path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		if raw, err := readFile(o, path); err == nil {
			includes = append(includes, composeIncludes(raw)...)
		}
	}
	all := map[string]bool{}
	add := func(written, more string) {
		path, err := template.Substitute(written, func(name string) (string, bool) {
			v, ok := env[name]
			if !ok {
				all["/"] = true
			}
			return v, ok
		})
		if err != nil {
			all["/"] = true
			return
		}
		for _, dir := range dirs {
			at := filepath.Join(Absolute(dir, path), more)
			if _, err := os.Lstat(at); err == nil {
				all[at] = true
			}
		}
	}
	for _, one := range includes {
		for _, file := range one.EnvFile {
			add(file, "")
		}
		if len(one.EnvFile) == 0 && one.Directory != "" {
			add(one.Directory, ".env")
		}
	}
	for _, dir := range dirs[1:] {
		add(dir, ".env")
	}
	return slices.Sorted(maps.Keys(all))
}

// composeIncludes returns the includes of a compose file; none if it is invalid, which is reported elsewhere.
func composeIncludes(raw []byte) []composeInclude {
	var doc struct {
		Include []yaml.Node `yaml:"include"`
	}
	if yaml.Unmarshal(raw, &doc) != nil {
		return nil
	}
	var all []composeInclude
	for _, n := range doc.Include {
		var one composeInclude
		if n.Kind == yaml.ScalarNode {
			one.Path = oneOrMany{n.Value}
		} else if n.Decode(&one) != nil {
			continue
		}
		all = append(all, one)
	}
	return all
}

// gitRoot returns the root of the git repository that contains a directory; "" if there is none. The home directory is
// no root: a repository of the user's settings must not make all files readable.
func gitRoot(dir, home string) string {
	for at := filepath.Clean(dir); at != "/" && at != filepath.Clean(home); at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			return at
		}
	}
	return ""
}
