package config

import (
	"strconv"

	"github.com/hashicorp/hcl/v2"
)

// maxWeight is the maximum weight of an engine.
const maxWeight = 1000

// Base is a base image with a name for use in Dockerfiles.
type Base struct {
	Name      string
	Image     string   // reference
	Platforms []string // platforms that the image must have; empty: those of the targets
	Range     Range
}

// Policy is a rule that bases, targets and images must satisfy.
type Policy struct {
	Name    string
	Rule    string // CEL
	Message string
	Warn    bool // a violation is a warning, not an error
	Range   Range
}

// Registry configures access to a registry, or to the part of one below a path.
type Registry struct {
	Prefix    string // HOST[:PORT][/PATH]
	Mirrors   []string
	PlainHTTP bool
	CA        []string // files of CA certificates, relative to Project.Dir
	Range     Range
}

// Engine is a BuildKit daemon to build with.
type Engine struct {
	Name      string
	Address   string
	Platforms []string // empty: those that the daemon reports
	Weight    int      // at least 1
	Range     Range
}

// fillBlocks evaluates the base, policy, registry and engine blocks. The last block of a label replaces earlier ones.
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

// bag evaluates the attributes of a block and returns their values by name.
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
		base := Base{
			Name: b.label, Image: get[string](bag, "image"), Platforms: get[[]string](bag,
				"platforms"), Range: rangeOf(b.at),
		}
		if base.Image == "" {
			return hcl.Diagnostics{problem(&b.at, "base %q needs an image: image = \"golang:1.26\"", b.label)}
		}
		p.Bases[b.label] = base
	case "policy":
		one := Policy{
			Name: b.label, Rule: get[string](bag, "rule"), Message: get[string](bag, "message"), Range: rangeOf(b.at),
		}
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
		Name: b.label, Address: get[string](bag, "address"), Platforms: get[[]string](bag, "platforms"), Weight: 1,
		Range: rangeOf(b.at),
	}
	if weight := get[string](bag, "weight"); weight != "" {
		n, err := strconv.Atoi(weight)
		if err != nil || n < 1 || n > maxWeight {
			return hcl.Diagnostics{problem(&b.at, "engine %q: weight = %s is not an integer from 1 to %d", b.label,
				weight, maxWeight)}
		}
		one.Weight = n
	}
	if one.Address == "" {
		return hcl.Diagnostics{problem(&b.at, "engine %q needs an address: address = \"tcp://builder:1234\"", b.label)}
	}
	p.Engines[b.label] = one
	return nil
}
