package config

import (
	"strconv"

	"github.com/hashicorp/hcl/v2"
)

// maxWeight bounds the weight of an engine.
const maxWeight = 1000

// Base is a base image by the name that Dockerfiles may use.
type Base struct {
	Name      string
	Image     string   // its reference
	Platforms []string // that it must have; empty: those of the targets
	Range     Range
}

// Policy is a rule about bases, targets and images.
type Policy struct {
	Name    string
	Rule    string // CEL
	Message string
	Warn    bool // a violation is told, and stops nothing
	Range   Range
}

// Registry says how a registry, or a part of one, is reached.
type Registry struct {
	Prefix    string // HOST[:PORT][/PATH]
	Mirrors   []string
	PlainHTTP bool
	CA        []string // files, relative to Project.Dir
	Range     Range
}

// Engine is a BuildKit daemon that builds.
type Engine struct {
	Name      string
	Address   string
	Platforms []string // empty: those that it has
	Weight    int      // at least 1
	Range     Range
}

// fillBlocks evaluates the blocks that are not about one target. Of several with one label the last counts.
func (l *loader) fillBlocks(p *Project) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, d := range l.docs {
		for _, b := range d.root.blocks {
			switch b.kind {
			case "base", "policy", "registry", "engine":
				bag, more := l.bag(b)
				diags = append(diags, more...)
				if !more.HasErrors() {
					diags = append(diags, p.addBlock(b, bag)...)
				}
			}
		}
	}
	return diags
}

// bag evaluates the attributes of a block.
func (l *loader) bag(b *block) (map[string]any, hcl.Diagnostics) {
	bag := map[string]any{}
	var diags hcl.Diagnostics
	for _, a := range b.file.kinds[b.kind].attrs {
		written := b.attrs[a.name]
		if written == nil {
			continue
		}
		v, more := l.scope.eval(written.Expr, nil)
		diags = append(diags, more...)
		if more.HasErrors() {
			continue
		}
		at := written.Expr.Range()
		value, more := a.decode(v, &at)
		diags = append(diags, more...)
		bag[a.name] = value
	}
	return bag, diags
}

func (p *Project) addBlock(b *block, bag map[string]any) hcl.Diagnostics {
	switch b.kind {
	case "base":
		base := Base{Name: b.label, Image: get[string](bag, "image"), Platforms: get[[]string](bag, "platforms"), Range: rangeOf(b.at)}
		if base.Image == "" {
			return hcl.Diagnostics{problem(&b.at, "base %q needs an image: image = \"golang:1.26\"", b.label)}
		}
		p.Bases[b.label] = base
	case "policy":
		one := Policy{Name: b.label, Rule: get[string](bag, "rule"), Message: get[string](bag, "message"), Range: rangeOf(b.at)}
		level := get[string](bag, "level")
		if one.Warn = level == "warn"; one.Rule == "" || level != "" && level != "warn" && level != "deny" {
			return hcl.Diagnostics{problem(&b.at, "policy %q needs a rule, and a level of warn or deny", b.label)}
		}
		p.Policies[b.label] = one
	case "registry":
		one := Registry{Prefix: b.label, Mirrors: get[[]string](bag, "mirrors"), Range: rangeOf(b.at)}
		if http := set[bool](bag, "plain-http"); http != nil {
			one.PlainHTTP = *http
		}
		for _, path := range get[[]string](bag, "ca") {
			one.CA = append(one.CA, rebased(b.file.dir, path))
		}
		p.Registries[b.label] = one
	case "engine":
		return p.addEngine(b, bag)
	}
	return nil
}

func (p *Project) addEngine(b *block, bag map[string]any) hcl.Diagnostics {
	one := Engine{
		Name: b.label, Address: get[string](bag, "address"), Platforms: get[[]string](bag, "platforms"), Weight: 1, Range: rangeOf(b.at),
	}
	if weight := get[string](bag, "weight"); weight != "" {
		n, err := strconv.Atoi(weight)
		if err != nil || n < 1 || n > maxWeight {
			return hcl.Diagnostics{problem(&b.at, "engine %q: weight = %s is not a whole number from 1 to %d", b.label, weight, maxWeight)}
		}
		one.Weight = n
	}
	if one.Address == "" {
		return hcl.Diagnostics{problem(&b.at, "engine %q needs an address: address = \"tcp://builder:1234\"", b.label)}
	}
	p.Engines[b.label] = one
	return nil
}
