package config

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Schema is the JSON Schema of bake.yaml and bake.json.
func Schema() ([]byte, error) {
	target := map[string]any{}
	for _, a := range attributes() {
		s := a.schema()
		s["description"] = a.doc
		target[a.name] = s
	}
	anything := map[string]any{}
	text := map[string]any{"type": "string"}
	target["matrix"] = map[string]any{"description": "Makes one target of each combination of the values.", "type": []string{"object", "string"}}
	target["name"] = map[string]any{"description": "The name of each target of a matrix.", "type": "string"}
	validation := object(map[string]any{"condition": anything, "error_message": text})
	return json.MarshalIndent(map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bake project file", "type": "object",
		"properties": map[string]any{
			"target": labelled(object(target)),
			"group":  labelled(object(map[string]any{"targets": stringsSchema(), "description": text})),
			"variable": labelled(object(map[string]any{
				"type": text, "default": anything, "description": text,
				"validation": map[string]any{"anyOf": []any{validation, map[string]any{"type": "array", "items": validation}}},
			})),
			"function": labelled(object(map[string]any{"params": stringsSchema(), "variadic_params": text, "result": anything})),
		},
	}, "", "  ")
}

func object(properties map[string]any) map[string]any {
	return map[string]any{
		"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false,
		"patternProperties": map[string]any{"^x-": map[string]any{}},
	}
}

func labelled(of map[string]any) map[string]any {
	return map[string]any{"type": "object", "additionalProperties": of}
}

func stringsSchema() map[string]any {
	return map[string]any{"anyOf": []any{
		map[string]any{"type": []string{"string", "null"}},
		map[string]any{"type": "array", "items": map[string]any{"type": []string{"string", "null"}}},
	}}
}

// schema is the JSON Schema of an attribute's value. A string may be an expression that comes to another type.
func (a attribute) schema() map[string]any {
	scalar := []string{"string", "number", "boolean", "null"}
	switch a.kind {
	case kindBool:
		return map[string]any{"type": []string{"boolean", "string", "null"}}
	case kindStrings:
		return stringsSchema()
	case kindMap:
		return map[string]any{"anyOf": []any{
			map[string]any{"type": []string{"string", "null"}},
			map[string]any{"type": "object", "additionalProperties": map[string]any{"type": scalar}},
		}}
	case kindAttrs, kindSecrets, kindSSH:
		item := map[string]any{"type": []string{"string", "object", "null"}}
		return map[string]any{"anyOf": []any{item, map[string]any{"type": "array", "items": item}}}
	}
	return map[string]any{"type": scalar}
}

// Init makes a project file for the Dockerfiles below dir: a target for each, and a group of them all. It returns the
// content and how many there are. Directories whose names start with a dot are left out, and so are those of packages.
func Init(dir string) (content string, count int, err error) {
	var found []string
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != dir && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "vendor") {
			return fs.SkipDir
		}
		if name := d.Name(); d.Type().IsRegular() && (name == "Dockerfile" || strings.HasSuffix(name, ".Dockerfile") || strings.HasPrefix(name, "Dockerfile.")) {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			found = append(found, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return "", 0, err
	}
	if len(found) == 0 {
		return "", 0, fmt.Errorf("there is no Dockerfile in %s or below it: %w", dir, os.ErrNotExist)
	}
	slices.Sort(found)
	return projectFile(dir, found), len(found), nil
}

func projectFile(dir string, found []string) string {
	var targets strings.Builder
	var all []string
	for _, f := range found {
		context, file := filepath.ToSlash(filepath.Dir(f)), filepath.Base(f)
		name := targetName(dir, context, file)
		for n := 2; slices.Contains(all, name); n++ {
			name = fmt.Sprintf("%s-%d", targetName(dir, context, file), n)
		}
		all = append(all, name)
		fmt.Fprintf(&targets, "\ntarget %q {\n", name)
		if context != "." {
			fmt.Fprintf(&targets, "  context = %q\n", escape(context))
		}
		if file != "Dockerfile" {
			fmt.Fprintf(&targets, "  dockerfile = %q\n", escape(file))
		}
		fmt.Fprintf(&targets, "  tags = [%q]\n}\n", strings.ToLower(name))
	}
	var list []string
	for _, name := range all {
		list = append(list, fmt.Sprintf("%q", name))
	}
	return fmt.Sprintf("group \"default\" {\n  targets = [%s]\n}\n", strings.Join(list, ", ")) + targets.String()
}

// targetName is what a Dockerfile's target is called: its folder, and what its own name adds.
func targetName(dir, context, file string) string {
	name := filepath.Base(context)
	if context == "." {
		name = filepath.Base(dir)
	}
	more := strings.Trim(strings.TrimSuffix(strings.TrimPrefix(file, "Dockerfile"), "Dockerfile"), ".")
	if more != "" {
		name += "-" + more
	}
	if name = sanitize(name); name == "" || name == "_" || name == "default" {
		name = "app"
	}
	return name
}
