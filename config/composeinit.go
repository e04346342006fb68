package config

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"gopkg.in/yaml.v3"
)

// ComposeTarget is the target of a service as the text of a project file in HCL. Variables of the compose file stay
// variables: no value of the environment or of an env file is in it.
type ComposeTarget struct {
	Name       string
	Context    string // a path relative to the project, or a URL; it may contain ${…}
	Dockerfile string // relative to the context
	Stage      string
	Inline     bool     // the Dockerfile is in the block
	Requires   []string // variables that must be set
	Text       string   // the block
}

// ComposeFile is what a compose file defines for builds.
type ComposeFile struct {
	Targets   []ComposeTarget
	Variables []string // the text of the variable blocks, sorted by name
}

// FromCompose converts a compose file, named relative to dir. Paths are relative to dir.
func FromCompose(ctx context.Context, dir, name string) (ComposeFile, error) {
	raw, err := readFile(Options{Dir: dir}, name)
	if err != nil {
		return ComposeFile{}, err
	}
	d, _, diags := parse(ctx, name, raw, false)
	if diags.HasErrors() {
		return ComposeFile{}, diags
	}
	if d.compose == nil {
		return ComposeFile{}, nil // empty, or a project file
	}
	at := filepath.ToSlash(filepath.Dir(name))
	vars := &composeVariables{uses: map[string]*variableUse{}}
	local := document{name: path.Base(filepath.ToSlash(name))}
	if local.raw, err = onlyBuilds(d); err != nil {
		return ComposeFile{}, fmt.Errorf("%s: %w", name, err)
	}
	in := composeInput{files: []*document{&local}, env: map[string]string{}, noEnvFiles: true,
		recorder: &pathRecorder{paths: map[string]bool{}, env: map[string]bool{}}, interpolate: vars.interpolate}
	p, err := loadCompose(ctx, filepath.Join(dir, at), in)
	if err != nil { // a variable may be the value of a number or a bool, which only its default can be
		vars = &composeVariables{uses: map[string]*variableUse{}}
		in.interpolate = quietly
		p, err = loadCompose(ctx, filepath.Join(dir, at), in)
	}
	if err != nil {
		one := composeProblem([]*document{d}, err)
		return ComposeFile{}, Diagnostics{list: hcl.Diagnostics{one}, files: map[string]*hcl.File{}}
	}
	return vars.file(p, d, at)
}

// onlyBuilds returns the parts of a compose file that builds use. In the others a variable without a value is often an
// error, such as a port.
func onlyBuilds(d *document) ([]byte, error) {
	var all map[string]any
	if err := d.compose.Decode(&all); err != nil {
		return nil, err
	}
	services, _ := all["services"].(map[string]any)
	for name, s := range services {
		keys, _ := s.(map[string]any)
		kept := map[string]any{}
		for _, key := range []string{"build", "image", "environment", "extends"} {
			if v, ok := keys[key]; ok {
				kept[key] = v
			}
		}
		services[name] = kept
	}
	kept := map[string]any{"services": services}
	for _, key := range []string{"secrets", "include"} {
		if v, ok := all[key]; ok {
			kept[key] = v
		}
	}
	return yaml.Marshal(kept)
}

// file converts the services of a compose file in the directory at.
func (vs *composeVariables) file(p *types.Project, d *document, at string) (ComposeFile, error) {
	var out ComposeFile
	converted := &document{name: d.name, kinds: blockKinds()}
	c := composeReader{project: p, files: []*document{d}, doc: converted}
	type service struct {
		block *block
		unset []string // arguments whose value comes from the environment
	}
	var all []service
	for _, s := range sortedServices(p) {
		b, diags := c.target(s)
		if diags.HasErrors() {
			return out, diags
		}
		var unset []string
		for arg, v := range s.Build.Args {
			if set, ok := s.Environment[arg]; v == nil && (!ok || set == nil) {
				unset = append(unset, arg)
				vs.use(arg).optional = true
			}
		}
		slices.Sort(unset)
		all = append(all, service{b, unset})
	}
	for _, s := range all {
		out.Targets = append(out.Targets, vs.target(s.block, s.unset, at))
	}
	var texts strings.Builder
	for _, t := range out.Targets {
		texts.WriteString(t.Text)
	}
	out.Variables = vs.blocks(texts.String())
	return out, nil
}

// target returns the target of a block. unset lists its arguments whose value comes from the environment.
func (vs *composeVariables) target(b *block, unset []string, at string) ComposeTarget {
	t := ComposeTarget{Name: b.label, Dockerfile: "Dockerfile", Context: at}
	lines, names := fmt.Sprintf("target %q {\n", t.Name), ""
	for _, a := range attributes() {
		written := b.attrs[a.name]
		if written == nil && !(a.name == "args" && len(unset) > 0) && !(a.name == "context" && at != ".") {
			continue
		}
		v := cty.EmptyObjectVal
		if written != nil {
			v, _ = written.Expr.Value(nil)
		} else if a.name == "context" {
			v = cty.StringVal(".")
		}
		v = composeRebased(a.name, v, at)
		text := vs.text(v, nil)
		switch a.name {
		case "context", "contexts", "dockerfile", "target", "tags":
			names += text
		}
		switch a.name {
		case "args":
			text = vs.text(v, unset)
		case "context":
			t.Context = vs.plain(v)
		case "dockerfile":
			t.Dockerfile = vs.plain(v)
		case "dockerfile-inline":
			t.Inline = true
		case "target":
			t.Stage = vs.plain(v)
		}
		if a.name == "context" && t.Context == "." || a.name == "dockerfile" && t.Dockerfile == "Dockerfile" {
			continue
		}
		lines += a.name + " = " + text + "\n"
	}
	t.Text, t.Requires = string(hclwrite.Format([]byte(lines+"}\n"))), vs.required(lines, names)
	return t
}

// composeRebased returns the value of an attribute with its paths relative to the project instead of to the directory
// of the compose file, and secrets without empty sources.
func composeRebased(attribute string, v cty.Value, at string) cty.Value {
	move := func(p string) string {
		if strings.HasPrefix(p, "~") || strings.HasPrefix(p, composeMark) {
			return p
		}
		return filepath.ToSlash(rebased(at, p))
	}
	if at == "." {
		move = func(p string) string { return p }
	}
	switch attribute {
	case "context":
		if p := v.AsString(); !strings.Contains(p, "://") {
			return cty.StringVal(path.Clean(move(p)))
		}
	case "contexts":
		moved := map[string]cty.Value{}
		for key, p := range v.AsValueMap() {
			moved[key] = cty.StringVal(move(p.AsString()))
		}
		return cty.ObjectVal(moved)
	case "secret":
		var all []cty.Value
		for _, item := range v.AsValueSlice() {
			if !isObject(item) {
				all = append(all, item)
				continue
			}
			kept := map[string]cty.Value{}
			for key, s := range item.AsValueMap() {
				if text := s.AsString(); text != "" && key == "src" {
					kept[key] = cty.StringVal(move(text))
				} else if text != "" {
					kept[key] = s
				}
			}
			all = append(all, cty.ObjectVal(kept))
		}
		return cty.TupleVal(all)
	}
	return v
}
