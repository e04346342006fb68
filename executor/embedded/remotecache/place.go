package remotecache

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/embedded/layers"
	"github.com/bakebuild/bake/executor/registry"
)

// Place is a parsed entry of cache-from or cache-to.
type Place struct {
	Dir string // of type=local, absolute
	Ref string // of type=registry
	// The fields below apply to cache-to.
	Max         bool // mode=max: layers of all steps, not only of those that the image has
	Compression layers.Compression
	Mounts      Mounts
}

// Mounts selects the cache mounts to export.
type Mounts struct {
	All bool
	IDs []string // as written in Dockerfiles, without leading slashes; the mount's target if it has no id
}

// Has reports whether a cache mount is exported. Leading slashes of id do not count.
func (m Mounts) Has(id string) bool {
	return m.All || slices.Contains(m.IDs, strings.TrimLeft(id, "/"))
}

// With returns the union of both selections.
func (m Mounts) With(n Mounts) Mounts {
	return Mounts{m.All || n.All, slices.Compact(slices.Sorted(slices.Values(slices.Concat(m.IDs, n.IDs))))}
}

// Same reports whether both are the same place.
func (p Place) Same(q Place) bool { return p.Dir == q.Dir && p.Ref == q.Ref }

// Source returns the place for import.
func (p Place) Source(client *registry.Client) Source {
	if p.Dir != "" {
		return &Dir{Path: p.Dir}
	}
	return &Artifact{Client: client, Ref: p.Ref}
}

// Destination returns the place for export.
func (p Place) Destination(client *registry.Client) Destination {
	if p.Dir != "" {
		return &Dir{Path: p.Dir}
	}
	return &Artifact{Client: client, Ref: p.Ref}
}

// attributes returns the accepted attributes of a kind of place. Some have no effect and are accepted for
// compatibility with Docker. For cache-to, a cache is always an OCI artifact with one compression, and its errors never
// fail a build. registry.insecure has no effect either: the configuration of the registry client decides.
func attributes(kind string, to bool) []string {
	all := []string{"type"}
	switch {
	case kind == "local" && !to:
		return append(all, "src")
	case kind == "local":
		all = append(all, "dest")
	default:
		all = append(all, "ref", "registry.insecure")
	}
	if to {
		all = append(all, "mode", "mounts", "compression", "compression-level", "force-compression",
			"ignore-error", "oci-mediatypes", "image-manifest")
	}
	return all
}

// Parse parses an entry of cache-to, or of cache-from if to is false. Relative paths refer to dir. ignored lists
// unknown attributes.
func Parse(a config.Attrs, to bool, dir string) (p Place, ignored []string, err error) {
	kind := a["type"]
	switch kind {
	case "local":
		where := "src"
		if to {
			where = "dest"
		}
		if a[where] == "" {
			return p, nil, fmt.Errorf("type=local needs %s=DIR", where)
		}
		if p.Dir = a[where]; !filepath.IsAbs(p.Dir) {
			p.Dir = filepath.Join(dir, p.Dir)
		}
		p.Dir = filepath.Clean(p.Dir)
	case "registry":
		named, err := reference.ParseNormalizedNamed(a["ref"])
		if err != nil {
			return p, nil, fmt.Errorf("ref=%s: %w", a["ref"], err)
		}
		p.Ref = reference.TagNameOnly(named).String()
	case "inline":
		return p, nil, fmt.Errorf("type=inline: this engine stores no cache in images; use type=registry,ref=NAME")
	default:
		return p, nil, fmt.Errorf("type=%s: this engine supports type=local and type=registry; "+
			"for other types, use a BuildKit daemon (--engine)", kind)
	}
	for name := range a {
		if !slices.Contains(attributes(kind, to), name) {
			ignored = append(ignored, name)
		}
	}
	slices.Sort(ignored)
	if !to {
		return p, ignored, nil
	}
	return p, ignored, p.parseExport(a)
}

// parseExport parses the attributes of cache-to. A value of mounts that strconv.ParseBool accepts, such as 1 or t, is a
// boolean and never an id.
func (p *Place) parseExport(a config.Attrs) error {
	switch a["mode"] {
	case "", "min":
	case "max":
		p.Max = true
	default:
		return fmt.Errorf("mode=%s: expected min or max", a["mode"])
	}
	p.Compression.Algorithm = layers.Algorithm(a["compression"])
	if v := a["compression-level"]; v != "" {
		level, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("compression-level=%s: expected a number", v)
		}
		p.Compression.Level = level
	}
	if err := p.Compression.Validate(); err != nil {
		return err
	}
	if v := a["mounts"]; v != "" {
		all, err := strconv.ParseBool(v)
		if p.Mounts.All = all; err != nil {
			for _, id := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ';' }) {
				p.Mounts.IDs = append(p.Mounts.IDs, strings.TrimLeft(strings.TrimSpace(id), "/"))
			}
		}
	}
	return nil
}
