package registry

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/bakebuild/bake/config"
)

// FromBlocks converts the registry blocks of a project in dir. If a mirror has a block of its own, that block defines
// how to reach it. Errors name the position of the block.
func FromBlocks(blocks map[string]config.Registry, dir string) ([]Registry, error) {
	var out []Registry
	for _, label := range slices.Sorted(maps.Keys(blocks)) {
		b := blocks[label]
		one, err := fromBlock(b, dir)
		if err != nil {
			return nil, fmt.Errorf("%s:%d:%d: registry %q: %w", b.Range.File, b.Range.Line, b.Range.Col, label, err)
		}
		out = append(out, one)
	}
	return out, nil
}

func fromBlock(b config.Registry, dir string) (Registry, error) {
	prefix, err := place("prefix", b.Prefix)
	if err != nil {
		return Registry{}, err
	}
	out := Registry{Prefix: prefix, Location: prefix, PlainHTTP: b.PlainHTTP}
	for _, m := range b.Mirrors {
		location, err := place("mirror", m)
		if err != nil {
			return Registry{}, err
		}
		out.Mirrors = append(out.Mirrors, Mirror{Location: location})
	}
	for _, file := range b.CA {
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		out.CA = append(out.CA, file)
	}
	if out.PlainHTTP && len(out.CA) > 0 {
		return out, fmt.Errorf("plain-http and ca cannot be combined; plain HTTP uses no certificates")
	}
	return out, nil
}

// With returns the configuration with more tables, which replace those with the same prefix. A prefix that was blocked
// stays blocked, since registry blocks cannot say that.
func (c *Config) With(more []Registry) *Config {
	out := &Config{}
	if c != nil {
		out.Registries = slices.Clone(c.Registries)
	}
	for _, r := range more {
		for _, old := range out.Registries {
			r.Blocked = r.Blocked || old.Prefix == r.Prefix && old.Blocked
		}
		out.Registries = append(out.without(r.Prefix), r)
	}
	return out
}
