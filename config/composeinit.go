package config

import (
	"context"
	"errors"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// ComposeBuilds converts the services of compose files to the text of a project file in HCL. Variables of the files
// stay variables, which all files share as in a project file. No value of the environment or of an env file can reach
// the text: the compose parser gets an empty environment and copies that name no env files; see composeCopies.
//
// First all files are read, then blocks are written: only then the defaults that all files have for a variable are
// known.
type ComposeBuilds struct {
	opts Options
	vars *composeVariables
	// roots are the directories in which files are read: of the project and of its git repository.
	roots []string
	used  map[string]bool // variables in the written blocks
}

// NewComposeBuilds returns a converter for compose files below the directory of the options.
func NewComposeBuilds(opts Options) *ComposeBuilds {
	vars := &composeVariables{uses: map[string]*variableUse{}, reserved: map[string]bool{}}
	roots := []string{opts.Dir}
	if root := gitRoot(opts.Dir, opts.Env["HOME"]); root != "" {
		roots = append(roots, root)
	}
	return &ComposeBuilds{opts: opts, vars: vars, roots: roots, used: map[string]bool{}}
}

// ComposeService is a service with a build section. The exported fields are plain values, for the case that no variable
// is set.
type ComposeService struct {
	Name       string            // of its target
	Context    string            // a path relative to the project, or a URL
	Dockerfile string            // relative to the context
	Inline     string            // the Dockerfile, if it is in the service
	Args       map[string]string // without those that only the environment sets
	Contexts   map[string]string // named contexts that are no targets
	Home       bool              // a path is in the home directory

	values map[string]cty.Value // by attribute; strings have marks
	unset  []string             // arguments whose value comes from the environment
}

// Read returns the services of a compose file and of files that override it, in this order, all in one directory.
// Services that cannot be converted are in notes.
func (c *ComposeBuilds) Read(ctx context.Context, names ...string) (all []ComposeService, notes []string, err error) {
	r := composeRead{builds: c, at: filepath.Dir(names[0])}
	r.copies = &composeCopies{opts: c.opts, roots: c.roots, dir: filepath.Join(c.opts.Dir, r.at), vars: c.vars,
		byOwn: map[string]string{}, own: map[string]string{}}
	defer func() { err = errors.Join(err, r.copies.close()) }()
	for _, name := range names {
		d, err := r.copies.read(ctx, filepath.Join(c.opts.Dir, name))
		if err != nil {
			return nil, nil, err
		}
		r.files = append(r.files, d)
	}
	if err := r.convert(ctx, nil); err != nil {
		if err = r.convertRest(ctx, err); err != nil {
			return nil, nil, err
		}
	}
	return r.all, r.notes, ctx.Err()
}

// composeRead is the state of one call of Read.
type composeRead struct {
	builds *ComposeBuilds
	copies *composeCopies
	files  []*document
	at     string // the directory of the files, relative to the project
	all    []ComposeService
	notes  []string
}

// convert adds the services. pick selects those of the files by name; nil selects all.
func (r *composeRead) convert(ctx context.Context, pick func(all []string) []string) error {
	p, err := r.load(ctx, pick)
	if err != nil {
		return err
	}
	reader := composeReader{project: p, files: r.files, doc: &document{name: r.files[0].name, kinds: blockKinds()}}
	for _, s := range sortedServices(p) {
		b, diags := reader.target(s)
		if diags.HasErrors() {
			r.leaveOut(s.Name, Diagnostics{list: diags[:1]})
			continue
		}
		r.all = append(r.all, r.builds.service(s, b, filepath.ToSlash(r.at)))
	}
	return ctx.Err()
}

func (r *composeRead) leaveOut(service string, err error) {
	r.notes = append(r.notes, err.Error()+"; service "+service+" was left out")
}

// load parses the copies of the files.
func (r *composeRead) load(ctx context.Context, pick func([]string) []string) (*types.Project, error) {
	in := composeInput{env: map[string]string{}, noEnvFiles: true, copies: r.copies,
		interpolate: r.builds.vars.interpolate,
		recorder:    &pathRecorder{paths: map[string]bool{}, env: map[string]bool{}}}
	for _, d := range r.files {
		local := &document{name: filepath.Base(d.name)}
		var err error
		if local.raw, err = r.copies.content(d, r.copies.dir, pick); err != nil {
			return nil, Diagnostics{list: hcl.Diagnostics{yamlProblem(d.name, err)}}
		}
		in.files = append(in.files, local)
	}
	p, err := loadCompose(ctx, r.copies.dir, in)
	if err != nil {
		last := r.files[len(r.files)-1].name
		err = Diagnostics{list: hcl.Diagnostics{composeProblem(r.files, last, r.copies.rename(err))}}
	}
	return p, err
}

// maxServices bounds the services of a file with an error that are read one by one.
const maxServices = 200

// convertRest adds the services after the error of all together, without those that have an error of their own. It
// returns the first error if there are none.
func (r *composeRead) convertRest(ctx context.Context, all error) error {
	var names []string
	for _, d := range r.files {
		if n := entry(d.compose, "services"); n != nil {
			names = append(names, keysOf(resolved(n))...)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) < 2 || len(names) > maxServices {
		return all
	}
	bad := map[string]bool{}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := r.load(ctx, func([]string) []string { return []string{name} }); err != nil {
			bad[name] = true
			r.leaveOut(name, err)
		}
	}
	if len(bad) == 0 || len(bad) == len(names) {
		return all
	}
	return r.convert(ctx, func(names []string) []string {
		return slices.DeleteFunc(names, func(name string) bool { return bad[name] })
	})
}

// service returns the service of a compose file in the directory at.
func (c *ComposeBuilds) service(s types.ServiceConfig, b *block, at string) ComposeService {
	out := ComposeService{Name: b.label, Context: at, Dockerfile: "Dockerfile", values: map[string]cty.Value{},
		Args: map[string]string{}, Contexts: map[string]string{}}
	for arg, v := range s.Build.Args {
		if set, ok := s.Environment[arg]; v == nil && (!ok || set == nil) && c.vars.declare(arg) {
			out.unset = append(out.unset, arg)
			c.vars.use(arg).optional = true
		}
	}
	slices.Sort(out.unset)
	for name, a := range b.attrs {
		v, _ := a.Expr.Value(nil)
		out.values[name] = c.rebased(name, v, at)
	}
	if v, ok := out.values["context"]; ok {
		out.Context = c.vars.withDefaults(v.AsString())
	} else if at != "." {
		out.values["context"] = cty.StringVal(at)
	}
	if v, ok := out.values["dockerfile"]; ok {
		out.Dockerfile = c.vars.withDefaults(v.AsString())
	}
	if v, ok := out.values["dockerfile-inline"]; ok {
		out.Inline = c.vars.withDefaults(v.AsString())
	}
	if v, ok := out.values["args"]; ok {
		for name, value := range v.AsValueMap() {
			out.Args[name] = c.vars.withDefaults(value.AsString())
		}
	}
	if v, ok := out.values["contexts"]; ok {
		for name, value := range v.AsValueMap() {
			text := c.vars.withDefaults(value.AsString())
			if _, ok := linkOf(text); !ok {
				out.Contexts[name] = text
			}
		}
	}
	for _, v := range out.values {
		out.Home = out.Home || hasHome(v)
	}
	return out
}

// rebased returns the value of an attribute with its paths relative to the project instead of to the directory of the
// compose file, and secrets without empty sources.
func (c *ComposeBuilds) rebased(attribute string, v cty.Value, at string) cty.Value {
	move := func(v cty.Value) cty.Value { return cty.StringVal(c.movedPath(v.AsString(), at)) }
	switch attribute {
	case "context":
		return move(v)
	case "contexts":
		moved := map[string]cty.Value{}
		for key, p := range v.AsValueMap() {
			moved[key] = move(p)
		}
		return cty.ObjectVal(moved)
	case "secret", "ssh":
		var all []cty.Value
		for _, item := range v.AsValueSlice() {
			if !isObject(item) {
				all = append(all, item)
				continue
			}
			kept := map[string]cty.Value{}
			for key, value := range item.AsValueMap() {
				switch {
				case key == "src" && value.AsString() != "":
					kept[key] = move(value)
				case key == "paths" && value.LengthInt() > 0:
					var paths []cty.Value
					for _, p := range value.AsValueSlice() {
						paths = append(paths, move(p))
					}
					kept[key] = cty.TupleVal(paths)
				case value.Type() == cty.String && value.AsString() != "":
					kept[key] = value
				}
			}
			all = append(all, cty.ObjectVal(kept))
		}
		return cty.TupleVal(all)
	}
	return v
}

// movedPath returns a path or URL of a compose file in the directory at as one of the project. The default of a
// variable at its start decides whether it is absolute.
func (c *ComposeBuilds) movedPath(p, at string) string {
	if i := strings.Index(p, homeMark); i >= 0 {
		return p[i:] // the compose parser may have joined it with a directory
	}
	for _, root := range c.roots { // paths of included and extended files are absolute
		if rel, err := filepath.Rel(root, p); err == nil && path.IsAbs(p) && filepath.IsLocal(rel) {
			if rel, err = filepath.Rel(c.opts.Dir, p); err == nil {
				return filepath.ToSlash(rel)
			}
		}
	}
	plain := c.vars.withDefaults(p)
	if _, link := linkOf(plain); link || path.IsAbs(plain) || looksLikeReference(plain) || IsRemote(plain) {
		return p
	}
	if at == "." && strings.HasPrefix(p, composeMark) {
		return p
	}
	return path.Join(at, p)
}

// hasHome reports whether a string in a value has a mark of the home directory.
func hasHome(v cty.Value) bool {
	found := false
	_ = cty.Walk(v, func(_ cty.Path, v cty.Value) (bool, error) {
		if v.Type() == cty.String && !v.IsNull() {
			found = found || strings.Contains(v.AsString(), homeMark)
		}
		return true, nil
	}) // the callback returns no error
	return found
}
