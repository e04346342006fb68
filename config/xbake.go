package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// xBake returns the attributes of the x-bake extension, each with the function that applies it to the target.
func xBake() map[string]func(*composeReader, types.ServiceConfig, targetValues, extension) error {
	return map[string]func(*composeReader, types.ServiceConfig, targetValues, extension) error{
		"tags": extendList, "platforms": extendList, "cache-from": extendList, "cache-to": extendList,
		"no-cache-filter": extendList,
		"output":          extendList, "secret": extendList, "ssh": extendList,
		"pull": extendSwitch, "no-cache": extendSwitch,
		"contexts": extendContexts,
	}
}

// extension is one attribute of the x-bake extension.
type extension struct {
	name  string
	value any
}

// extend applies the x-bake extension of a service.
func (c *composeReader) extend(s types.ServiceConfig, values targetValues) hcl.Diagnostics {
	written, ok := s.Build.Extensions["x-bake"]
	if !ok || written == nil {
		return nil
	}
	more, ok := written.(map[string]any)
	if !ok {
		at := c.at("services", s.Name, "build", "x-bake")
		return hcl.Diagnostics{problem(&at, "x-bake: expected a mapping from attributes to values")}
	}
	var diags hcl.Diagnostics
	all := xBake()
	for _, key := range slices.Sorted(maps.Keys(more)) {
		at := c.at("services", s.Name, "build", "x-bake", key)
		change, known := all[key]
		if !known {
			d := problem(&at, "unknown attribute %q in x-bake%s", key, nearest(key, slices.Collect(maps.Keys(all))))
			d.Severity = hcl.DiagWarning
			c.warnings = append(c.warnings, d)
			continue
		}
		if err := change(c, s, values, extension{key, more[key]}); err != nil {
			diags = append(diags, problem(&at, "x-bake: %s: %v", key, err))
		}
	}
	return diags
}

func extendList(_ *composeReader, _ types.ServiceConfig, values targetValues, e extension) error {
	list, err := fields(e.value)
	if err == nil {
		values.add(e.name, stringTuple(list).AsValueSlice())
	}
	return err
}

func extendSwitch(_ *composeReader, _ types.ServiceConfig, values targetValues, e extension) error {
	on, ok := e.value.(bool)
	if !ok {
		return fmt.Errorf("expected true or false, got %v", e.value)
	}
	values[e.name] = cty.BoolVal(on)
	return nil
}

// extendContexts adds named contexts. additional_contexts of the service take precedence.
func extendContexts(c *composeReader, s types.ServiceConfig, values targetValues, e extension) error {
	m, ok := e.value.(map[string]any)
	if !ok {
		return errors.New("expected a mapping")
	}
	all := map[string]string{}
	for name, value := range m {
		all[name] = fmt.Sprint(value)
	}
	all = c.contexts(all)
	maps.Copy(all, c.additional(s))
	values[e.name] = stringMap(all)
	return nil
}

// fields converts a list of strings, or one string that is split at white space.
func fields(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return strings.Fields(v), nil
	case []any:
		var all []string
		for _, one := range v {
			s, err := scalar(one)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
		return all, nil
	case bool, int, int64, uint64, float64:
		s, err := scalar(v)
		return []string{s}, err
	}
	return nil, fmt.Errorf("expected a list of strings, got %v", v)
}

// scalar returns a value that is not a list or a mapping as a string.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("expected a string, got %v", v)
}
