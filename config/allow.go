package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

// Grants are the permissions that a user gives a project: the values of --allow.
//
// A project file may name any path, and someone who builds a project that others wrote must not send them files of the
// local machine. So a build reads and writes only below the directory of the project, and everything else must be
// granted: more paths, SSH agents, the network of the host. Missing compares the needs of all targets with the grants
// before anything runs. It resolves symbolic links, because a link inside of the project may point outside.
type Grants struct {
	names       []string // network.host, security.insecure, ssh, device, device=NAME
	read, write []string // paths; "*" is every path
}

// ParseGrants parses the values of --allow.
func ParseGrants(values []string) (Grants, error) {
	var g Grants
	for _, v := range values {
		key, path, hasPath := strings.Cut(v, "=")
		switch {
		case !hasPath && slices.Contains(grantNames(), key), key == "device":
			g.names = append(g.names, v)
		case key == "fs.read" && path != "":
			g.read = append(g.read, path)
		case key == "fs.write" && path != "":
			g.write = append(g.write, path)
		case key == "fs" && path != "":
			g.read, g.write = append(g.read, path), append(g.write, path)
		case key == "image" || key == "image.push" || key == "image.load":
		default:
			return g, fmt.Errorf("--allow %s: expected network.host, security.insecure, ssh, device[=NAME], "+
				"fs=PATH, fs.read=PATH or fs.write=PATH", v)
		}
	}
	return g, nil
}

// grantNames returns the values of --allow that take no argument.
func grantNames() []string {
	return []string{"network.host", "security.insecure", "ssh", "device", "buildx.local.delete"}
}

// Missing returns, as values of --allow, the permissions that the targets of a project need and that are not granted.
// Paths below the directory of the project need no grant. If files is false, no path and no SSH agent does.
func (g Grants) Missing(p *Project, files bool) ([]string, error) {
	var missing []string
	read, write := map[string]bool{}, map[string]bool{}
	for _, t := range p.Targets {
		for _, e := range t.Entitlements {
			if !slices.Contains(g.names, e) && !(strings.HasPrefix(e, "device=") && slices.Contains(g.names,
				"device")) {
				missing = append(missing, e)
			}
		}
		t.paths(read, write)
		agent := slices.ContainsFunc(t.SSH, func(s SSH) bool { return len(s.Paths) == 0 })
		if agent && files && !slices.Contains(g.names, "ssh") {
			missing = append(missing, "ssh")
		}
	}
	if !files {
		slices.Sort(missing)
		return slices.Compact(missing), nil
	}
	for _, c := range []struct {
		key     string
		granted []string
		needed  map[string]bool
	}{{"fs.read", g.read, read}, {"fs.write", g.write, write}} {
		for path := range c.needed {
			ok, err := within(p.Dir, path, append(c.granted, "."))
			if err != nil {
				return nil, err
			}
			if !ok {
				missing = append(missing, c.key+"="+path)
			}
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing), nil
}

// paths adds the local paths that a target reads and writes, as written.
func (t *Target) paths(read, write map[string]bool) {
	if p, ok := localPath(t.Context); ok {
		read[p] = true
		if file, inCwd := strings.CutPrefix(t.Dockerfile, "cwd://"); inCwd || filepath.IsAbs(file) {
			read[file] = true
		} else if t.DockerfileInline == nil {
			read[filepath.Join(p, file)] = true
		}
	}
	for _, c := range t.Contexts {
		if p, ok := localPath(c); ok {
			read[p] = true
		}
	}
	for _, s := range t.Secrets {
		if s.Src != "" {
			read[s.Src] = true
		}
	}
	for _, s := range t.SSH {
		for _, p := range s.Paths {
			read[p] = true
		}
	}
	for _, c := range t.CacheFrom {
		if c["type"] == "local" && c["src"] != "" {
			read[c["src"]] = true
		}
	}
	for _, c := range slices.Concat(t.CacheTo, t.Outputs) {
		if c["dest"] != "" && c["dest"] != "-" {
			write[c["dest"]] = true
		}
	}
}

// localPath returns the local path that a context names, if any.
func localPath(context string) (string, bool) {
	if p, ok := strings.CutPrefix(context, "cwd://"); ok {
		return p, true
	}
	if p, ok := strings.CutPrefix(context, "oci-layout://"); ok {
		p, _, _ = strings.Cut(p, "@")
		if i := strings.LastIndex(p, ":"); i > strings.LastIndex(p, "/") {
			p = p[:i]
		}
		return p, true
	}
	if strings.Contains(context, "://") || strings.HasPrefix(context, "target:") || strings.HasPrefix(context,
		"docker-image:") {
		return "", false
	}
	ref, isGit, _ := dfgitutil.ParseGitRef(context)
	return context, !isGit || ref != nil && ref.IndistinguishableFromLocal
}

// within reports whether a path is in one of the roots, with the symbolic links of all of them resolved.
func within(dir, path string, roots []string) (bool, error) {
	if slices.Contains(roots, "*") {
		return true, nil
	}
	real, err := realPath(dir, path)
	if err != nil {
		return false, err
	}
	for _, root := range roots {
		r, err := realPath(dir, root)
		if err != nil {
			return false, err
		}
		if rel, err := filepath.Rel(r, real); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return true, nil
		}
	}
	return false, nil
}

// realPath resolves the symbolic links of a path. Components that do not exist, or whose parent is not a directory,
// are kept as written: a path need not exist yet.
func realPath(dir, path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
		if !missing || path == "/" {
			return "", fmt.Errorf("resolve %s: %w", path, err)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}
