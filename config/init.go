package config

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Init returns the content of a project file for dir, the number of its targets, and the name of the compose file if
// there is one. There is a target for each service of the compose file or, without one, for each Dockerfile in dir
// and below, and the group "default" of all targets. It skips directories whose names start with a dot, node_modules
// and vendor.
func Init(ctx context.Context, dir string, env map[string]string) (content string, count int, compose string,
	err error) {
	for _, name := range composeFiles() {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			content, count, err = composeProject(ctx, dir, name, env)
			return content, count, name, err
		}
	}
	found, err := dockerfiles(dir)
	if err != nil {
		return "", 0, "", err
	}
	if len(found) == 0 {
		return "", 0, "", nothingToBuildError{dir}
	}
	return projectFile(dir, found), len(found), "", nil
}

// nothingToBuildError is a directory without a compose file and Dockerfiles. It is an os.ErrNotExist.
type nothingToBuildError struct{ dir string }

func (e nothingToBuildError) Error() string {
	return fmt.Sprintf("no compose file in %s, and no Dockerfile in or below it", e.dir)
}

func (e nothingToBuildError) Unwrap() error { return os.ErrNotExist }

// dockerfiles returns the Dockerfiles in dir and below, as sorted relative paths with slashes.
func dockerfiles(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != dir && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "vendor") {
			return fs.SkipDir
		}
		isDockerfile := name == "Dockerfile" || strings.HasSuffix(name, ".Dockerfile") || strings.HasPrefix(name,
			"Dockerfile.")
		if d.Type().IsRegular() && isDockerfile {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			found = append(found, filepath.ToSlash(rel))
		}
		return nil
	})
	slices.Sort(found)
	return found, err
}

func projectFile(dir string, found []string) string {
	var targets strings.Builder
	var all []string
	for _, f := range found {
		context, file := filepath.ToSlash(filepath.Dir(f)), filepath.Base(f)
		name := targetName(dir, context, file)
		for n := 2; slices.Contains(all, name); n++ {
			name = fmt.Sprintf("%s-%d", targetName(dir, context, file), n)
		}
		all = append(all, name)
		fmt.Fprintf(&targets, "\ntarget %q {\n", name)
		if context != "." {
			fmt.Fprintf(&targets, "  context = %q\n", escape(context))
		}
		if file != "Dockerfile" {
			fmt.Fprintf(&targets, "  dockerfile = %q\n", escape(file))
		}
		fmt.Fprintf(&targets, "  tags = [%q]\n}\n", strings.ToLower(name))
	}
	var list []string
	for _, name := range all {
		list = append(list, fmt.Sprintf("%q", name))
	}
	return fmt.Sprintf("group \"default\" {\n  targets = [%s]\n}\n", strings.Join(list, ", ")) + targets.String()
}

// targetName returns the name of the target for a Dockerfile: the name of its directory, and the prefix or suffix of
// its own name.
func targetName(dir, context, file string) string {
	name := filepath.Base(context)
	if context == "." {
		name = filepath.Base(dir)
	}
	more := strings.Trim(strings.TrimSuffix(strings.TrimPrefix(file, "Dockerfile"), "Dockerfile"), ".")
	if more != "" {
		name += "-" + more
	}
	if name = sanitize(name); name == "" || name == "_" || name == "default" {
		name = "app"
	}
	return name
}
