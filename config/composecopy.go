package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// composeCopies gives the compose parser copies of compose files that have only what builds use.
//
// The parser reads env files: those of includes, and .env next to an included file. It puts their values into services
// and resolves "~". Other parts, such as ports, are errors if a variable in them has no value. A copy has none of
// this: every include in it reads /dev/null instead of an env file, and its paths are absolute. So no value of an env
// file can reach a project file, whatever the parser does with it. A copy is read instead of each file that a copy
// names, because Load replaces the name.
type composeCopies struct {
	opts  Options
	roots []string // the directories in which files are read
	dir   string   // of the first compose file; absolute
	tmp   string   // the directory of the copies
	vars  *composeVariables
	byOwn map[string]string // copies by the path of the file
	own   map[string]string // paths of files by copy
	nodes int               // in all copies
}

// Bounds of the copies for one compose file.
const (
	maxComposeCopies = 500
	maxComposeNodes  = 500_000
)

// close removes the copies.
func (c *composeCopies) close() error { return os.RemoveAll(c.tmp) }

// Accept implements composeloader.ResourceLoader.
func (c *composeCopies) Accept(string) bool { return true }

// Load implements composeloader.ResourceLoader: it returns the copy of a file.
func (c *composeCopies) Load(ctx context.Context, path string) (string, error) {
	if c.own[path] != "" {
		return path, nil
	}
	if known := c.byOwn[path]; known != "" {
		return known, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if len(c.byOwn) == maxComposeCopies {
		return "", fmt.Errorf("more than %d files are included or extended", maxComposeCopies)
	}
	d, err := c.read(ctx, path)
	if err != nil {
		return "", err
	}
	raw, err := c.content(d, filepath.Dir(path), nil)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.relative(path), err)
	}
	if c.tmp == "" {
		if c.tmp, err = os.MkdirTemp("", "bake-init-"); err != nil {
			return "", err
		}
	}
	file := filepath.Join(c.tmp, strconv.Itoa(len(c.byOwn))+".yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return "", err
	}
	c.byOwn[path], c.own[file] = file, path
	return file, nil
}

// Dir implements composeloader.ResourceLoader: it returns the directory to which the paths in a file are relative.
func (c *composeCopies) Dir(path string) string {
	if own := c.own[path]; own != "" {
		path = own
	}
	return filepath.Dir(path)
}

// relative returns a path relative to the directory of the compose file.
func (c *composeCopies) relative(path string) string {
	rel, err := filepath.Rel(c.dir, path)
	if err != nil {
		return path
	}
	return rel
}

// read parses a compose file. It must be in the directory of the project or its git repository.
func (c *composeCopies) read(ctx context.Context, path string) (*document, error) {
	if strings.Contains(path, "://") {
		return nil, fmt.Errorf("%s is not a file of this machine", path)
	}
	in, err := newLinks(c.opts.Dir).within(path, c.roots)
	if err != nil {
		return nil, err
	}
	if !in {
		return nil, fmt.Errorf("%s is outside of the project", c.relative(path))
	}
	name, err := filepath.Rel(c.opts.Dir, path)
	if err != nil {
		return nil, err
	}
	raw, err := readFile(c.opts, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d, _, diags := parse(ctx, name, raw, false)
	if diags.HasErrors() {
		return nil, Diagnostics{list: diags, files: nil}
	}
	if d.compose == nil {
		return nil, fmt.Errorf("%s is not a compose file", name)
	}
	return d, nil
}

// rename returns an error with the names of files and variables instead of those of copies and marks.
func (c *composeCopies) rename(err error) error {
	text := err.Error()
	for file, own := range c.own {
		text = strings.ReplaceAll(text, file, c.relative(own))
	}
	return errors.New(c.vars.withNames(text))
}

// content returns what builds use of a compose file in a directory. selected picks services by name, nil all; those
// that they extend are kept too.
func (c *composeCopies) content(d *document, dir string, selected func([]string) []string) ([]byte, error) {
	root, err := c.expanded(d.compose, 0)
	if err != nil {
		return nil, err
	}
	pick(root, "services", "secrets", "include")
	eachValue(root, "services", func(services *yaml.Node) {
		if selected != nil {
			pick(services, extended(services, selected(keysOf(services)))...)
		}
		eachValue(services, "", func(service *yaml.Node) { c.service(service, dir) })
	})
	eachValue(root, "secrets", func(secrets *yaml.Node) {
		eachValue(secrets, "", func(secret *yaml.Node) { eachValue(secret, "file", markHome) })
	})
	eachValue(root, "include", func(list *yaml.Node) {
		for i, one := range list.Content {
			list.Content[i] = c.include(one, dir)
		}
	})
	return yaml.Marshal(root)
}

// extended returns services and those of the same file that they extend.
func extended(services *yaml.Node, all []string) []string {
	for i := 0; i < len(all); i++ {
		eachValue(services, all[i], func(service *yaml.Node) {
			eachValue(service, "extends", func(extends *yaml.Node) {
				next := extends.Value
				eachValue(extends, "service", func(n *yaml.Node) { next = n.Value })
				eachValue(extends, "file", func(*yaml.Node) { next = "" })
				if next != "" && !slices.Contains(all, next) {
					all = append(all, next)
				}
			})
		})
	}
	return all
}

// service keeps what builds use of a service.
func (c *composeCopies) service(n *yaml.Node, dir string) {
	pick(n, "build", "image", "environment", "extends")
	eachValue(n, "extends", func(extends *yaml.Node) {
		eachValue(extends, "file", func(file *yaml.Node) { c.setPath(file, dir) })
	})
	eachValue(n, "build", func(build *yaml.Node) {
		if build.Kind == yaml.ScalarNode {
			markHome(build)
		}
		eachValue(build, "context", markHome)
		for _, key := range []string{"additional_contexts", "ssh"} {
			eachValue(build, key, func(list *yaml.Node) {
				eachValue(list, "", markHome)
				if list.Kind == yaml.SequenceNode {
					for _, one := range list.Content {
						markHome(one)
					}
				}
			})
		}
	})
}

// include returns an entry of include that reads no env file. It always has a project_directory: the parser would take
// the directory of the copies.
func (c *composeCopies) include(n *yaml.Node, dir string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode}
	add := func(key string, value *yaml.Node) {
		out.Content = append(out.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	}
	project := ""
	paths := func(list *yaml.Node) {
		all := list.Content
		if list.Kind == yaml.ScalarNode {
			all = []*yaml.Node{list}
		}
		for _, one := range all {
			c.setPath(one, dir)
			if project == "" {
				project = filepath.Dir(one.Value)
			}
		}
		add("path", list)
	}
	if n.Kind == yaml.ScalarNode {
		paths(n)
	}
	eachValue(n, "path", paths)
	eachValue(n, "project_directory", func(one *yaml.Node) {
		c.setPath(one, dir)
		project = one.Value
	})
	if project != "" {
		add("project_directory", &yaml.Node{Kind: yaml.ScalarNode, Value: project})
	}
	add("env_file", &yaml.Node{Kind: yaml.ScalarNode, Value: os.DevNull})
	return out
}

// setPath makes a path absolute. Its variables get their defaults: which file is included cannot depend on a variable
// of a project file.
func (c *composeCopies) setPath(n *yaml.Node, dir string) {
	if n.Kind != yaml.ScalarNode || strings.Contains(n.Value, "://") {
		return
	}
	path := Absolute(dir, c.vars.withDefaults(c.vars.mark(n.Value)))
	n.Value, n.Tag = strings.ReplaceAll(path, "$", "$$"), ""
}

// markHome marks a path below the home directory: PATH or NAME=PATH.
func markHome(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		return
	}
	name, path, ok := strings.Cut(n.Value, "=")
	if !ok || strings.HasPrefix(n.Value, "~") {
		name, path = "", n.Value
	} else {
		name += "="
	}
	if path == "~" || strings.HasPrefix(path, "~/") {
		n.Value = name + homeMark + path[1:]
	}
}

// expanded returns a copy of a node without aliases.
func (c *composeCopies) expanded(n *yaml.Node, depth int) (*yaml.Node, error) {
	n = resolved(n)
	if c.nodes++; c.nodes > maxComposeNodes || depth > maxYAMLDepth {
		return nil, errors.New(tooLarge)
	}
	if strings.ContainsAny(n.Value, composeMark+composeMarkEnd+homeMark) {
		return nil, fmt.Errorf("line %d has the character U+E000, U+E001 or U+E002, which no text should have", n.Line)
	}
	out := *n // with its tag: !reset, !override
	out.Anchor, out.Content, out.Style = "", nil, n.Style&^yaml.FlowStyle
	if n.Tag == "!!null" {
		out.Value = "null" // an empty value would be written as an empty string
	}
	keys := map[string]bool{}
	for i, inner := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if keys[inner.Value] {
				return nil, fmt.Errorf("line %d: the key %q is there twice", inner.Line, inner.Value)
			}
			keys[inner.Value] = true
		}
		next, err := c.expanded(inner, depth+1)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, next)
	}
	return &out, nil
}

// keysOf returns the keys of a mapping.
func keysOf(n *yaml.Node) []string {
	var all []string
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		all = append(all, n.Content[i].Value)
	}
	return all
}

// pick removes all other keys of a mapping and of those merged into it.
func pick(n *yaml.Node, keys ...string) {
	if n.Kind == yaml.SequenceNode {
		for _, inner := range n.Content { // of <<
			pick(inner, keys...)
		}
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	var kept []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value == "<<" {
			pick(value, keys...)
		} else if !slices.Contains(keys, key.Value) {
			continue
		}
		kept = append(kept, key, value)
	}
	n.Content = kept
}

// eachValue calls do for the value of a key of a mapping and of those merged into it. If key is "", it does so for each
// of their values.
func eachValue(n *yaml.Node, key string, do func(*yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		value := n.Content[i+1]
		switch {
		case n.Content[i].Value == "<<":
			merged := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				merged = value.Content
			}
			for _, one := range merged {
				eachValue(one, key, do)
			}
		case key == "" || n.Content[i].Value == key:
			do(value)
		}
	}
}
