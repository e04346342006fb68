package registry

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/bakebuild/bake/config"
)

// FromBlocks makes tables of the registry blocks of a project in dir. Where a mirror has a block of its own, that says how
// it is reached. Errors name the block's place.
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
		return out, fmt.Errorf("plain-http and ca exclude each other: over plain HTTP there is no certificate")
	}
	return out, nil
}

// With is the configuration with more tables, which go before those with the same prefix. What a table before says that a
// block cannot say stays: that it is blocked.
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
