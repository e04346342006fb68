package config

import "encoding/json"

// Schema returns the JSON Schema of bake.yaml and bake.json, derived from the same tables as parsing.
func Schema() ([]byte, error) {
	all := blockKinds()
	properties := map[string]any{
		"include": describe(stringsSchema(), "Other project files, by path or pattern relative to this file. "+
			"Only in files named bake.* and those that they include."),
	}
	for _, name := range all.top() {
		properties[name] = all.schema(name)
	}
	return json.MarshalIndent(map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bake project file", "type": "object",
		"properties": properties, // any other key is a value by that name
	}, "", "  ")
}

// schema returns the JSON Schema of the blocks of one kind.
func (k kinds) schema(name string) map[string]any {
	kind := k[name]
	one := rowsSchema(kind.attrs)
	if kind.inner != "" {
		inner := k.schema(kind.inner)
		list := map[string]any{"type": "array", "items": inner}
		one["properties"].(map[string]any)[kind.inner] = map[string]any{"anyOf": []any{inner, list}}
	}
	if kind.anyAttr {
		one["additionalProperties"] = true
	}
	if kind.labelled {
		one = map[string]any{"type": "object", "additionalProperties": one}
	}
	return describe(one, kind.doc)
}

// rowsSchema returns the JSON Schema of an object with the attributes of a table.
func rowsSchema(rows []attribute) map[string]any {
	properties := map[string]any{}
	for _, a := range rows {
		properties[a.name] = describe(a.schema(), a.doc)
	}
	return object(properties)
}

func describe(schema map[string]any, text string) map[string]any {
	if text != "" {
		schema["description"] = text
	}
	return schema
}

func object(properties map[string]any) map[string]any {
	return map[string]any{
		"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false,
		"patternProperties": map[string]any{"^x-": map[string]any{}},
	}
}

func stringsSchema() map[string]any {
	return map[string]any{"anyOf": []any{
		map[string]any{"type": []string{"string", "null"}},
		map[string]any{"type": "array", "items": map[string]any{"type": []string{"string", "null"}}},
	}}
}

// schema returns the JSON Schema of an attribute's value. Most kinds allow a string, since it may be a template that
// evaluates to another type.
func (a attribute) schema() map[string]any {
	scalar := []string{"string", "number", "boolean", "null"}
	switch a.kind {
	case kindAny:
		return map[string]any{}
	case kindBool:
		return map[string]any{"type": []string{"boolean", "string", "null"}}
	case kindStrings, kindCommand:
		return stringsSchema()
	case kindCommands:
		return map[string]any{"anyOf": []any{
			map[string]any{"type": []string{"string", "null"}}, map[string]any{"type": "array",
				"items": stringsSchema()},
		}}
	case kindConfig:
		return rowsSchema(configAttributes())
	case kindTests:
		one := rowsSchema(testAttributes())
		named := rowsSchema(append(testAttributes(),
			attribute{name: "name", kind: kindString, doc: "The name of the test."}))
		return map[string]any{"anyOf": []any{
			map[string]any{"type": []string{"string", "null"}}, named,
			map[string]any{"type": "array", "items": map[string]any{"anyOf": []any{map[string]any{"type": "string"},
				named}}},
			map[string]any{"type": "object", "additionalProperties": one},
		}}
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
