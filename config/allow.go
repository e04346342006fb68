package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Grants are the permissions that a user gives a project: the values of --allow.
//
// A project file may name any path, and someone who builds a project that others wrote must not send them files of the
// local machine. So a build reads and writes only below the directory of the project, and everything else must be
// granted: more paths, SSH agents, the network of the host. Missing compares the needs of all targets with the grants
// before anything runs. It resolves symbolic links, because a link inside of the project may point outside.
// TestGrantsOfFiles crosses all attributes with all kinds of contexts and all forms of paths.
type Grants struct {
	names       []string // network.host, network.local, security.insecure, ssh, device, device=NAME
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
			return g, fmt.Errorf("--allow %s: expected network.host, network.local, security.insecure, ssh, "+
				"device[=NAME], fs=PATH, fs.read=PATH or fs.write=PATH", v)
		}
	}
	return g, nil
}

// grantNames returns the values of --allow that take no argument.
func grantNames() []string {
	return []string{"network.host", "network.local", "security.insecure", "ssh", "device", "buildx.local.delete"}
}

// Missing returns, as values of --allow, the permissions that the targets of a project need and that are not granted.
// Paths below the directory of the project need no grant. If files is false, no path and no SSH agent does.
func (g Grants) Missing(p *Project, files bool) ([]string, error) {
	var missing []string
	for _, t := range p.Targets {
		for _, e := range t.Entitlements {
			if !slices.Contains(g.names, e) && !(strings.HasPrefix(e, "device=") && slices.Contains(g.names,
				"device")) {
				missing = append(missing, e)
			}
		}
		agent := slices.ContainsFunc(t.SSH, func(s SSH) bool { return len(s.Paths) == 0 })
		if agent && files && !slices.Contains(g.names, "ssh") {
			missing = append(missing, "ssh")
		}
	}
	if files {
		paths, err := g.missingFiles(p)
		if err != nil {
			return nil, err
		}
		missing = append(missing, paths...)
	}
	slices.Sort(missing)
	return slices.Compact(missing), nil
}

// missingFiles returns the paths that need a grant, as values of --allow.
func (g Grants) missingFiles(p *Project) ([]string, error) {
	files, dirs := p.readable()
	var uses []FileUse
	for _, t := range p.Targets {
		uses = append(uses, t.FileUses()...)
	}
	m := missingFiles{links: newLinks(p.Dir), grants: g, seen: map[FileUse]bool{}}
	for _, use := range uses {
		if err := m.check(use, "."); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		if err := m.check(FileUse{Path: f}, append(dirs, ".")...); err != nil {
			return nil, err
		}
	}
	return m.list()
}

// missingFiles collects the files that need a grant.
type missingFiles struct {
	links  *links
	grants Grants
	seen   map[FileUse]bool // whether the file needs a grant, without the attribute
}

// check records whether a file that is not below the given directories needs a grant.
func (m missingFiles) check(use FileUse, below ...string) error {
	use.Attribute = ""
	if _, known := m.seen[use]; known {
		return nil
	}
	if use.Derived {
		link, err := m.links.isLink(use.Path)
		if err != nil || !link {
			return err
		}
		if info, err := os.Stat(Absolute(m.links.dir, use.Path)); err == nil && !info.Mode().IsRegular() {
			return nil // only regular files are read
		}
		use.Derived = false
	}
	granted := m.grants.read
	if use.Write {
		granted = m.grants.write
	}
	ok, err := m.links.within(use.Path, slices.Concat(granted, below))
	m.seen[use] = !ok
	return err
}

// list returns the grants that are missing, without files in a directory that needs the same grant.
func (m missingFiles) list() ([]string, error) {
	var all []string
	for use, needed := range m.seen {
		for dir := filepath.Clean(use.Path); needed && dir != "." && dir != "/"; {
			dir = filepath.Dir(dir)
			if !m.seen[FileUse{Path: dir, Write: use.Write}] {
				continue
			}
			in, err := m.links.within(use.Path, []string{dir})
			if err != nil {
				return nil, err
			}
			needed = !in
		}
		switch {
		case needed && use.Write:
			all = append(all, "fs.write="+use.Path)
		case needed:
			all = append(all, "fs.read="+use.Path)
		}
	}
	return all, nil
}

// Has reports whether a permission that takes no argument was given, such as network.local.
func (g Grants) Has(name string) bool { return slices.Contains(g.names, name) }
