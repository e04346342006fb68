package config

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// composeProject returns a project file with the targets of a compose file.
func composeProject(ctx context.Context, dir, name string, env map[string]string) (content string, count int,
	err error) {
	p, _, err := Load(ctx, Options{Dir: dir, Files: []string{name}, Env: env})
	if err != nil {
		return "", 0, err
	}
	raw, err := Print(p)
	if err != nil {
		return "", 0, err
	}
	var printed struct {
		Target map[string]map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(raw, &printed); err != nil {
		return "", 0, err
	}
	f := hclwrite.NewEmptyFile()
	f.Body().AppendNewBlock("group", []string{"default"}).Body().SetAttributeValue("targets", stringTuple(p.Requested))
	for _, target := range p.Requested {
		f.Body().AppendNewline()
		body := f.Body().AppendNewBlock("target", []string{target}).Body()
		for _, a := range attributes() {
			text, ok := printed.Target[target][a.name]
			if !ok || isDefault(a.name, string(text)) {
				continue
			}
			v, err := fromJSON(a.name, text)
			if err != nil {
				return "", 0, err
			}
			body.SetAttributeValue(a.name, v)
		}
	}
	return string(f.Bytes()), len(p.Requested), nil
}

// isDefault reports whether a printed attribute has its default value and can be omitted.
func isDefault(attribute, text string) bool {
	return attribute == "context" && text == `"."` || attribute == "dockerfile" && text == `"Dockerfile"`
}

// fromJSON converts a printed attribute back to a value. It undoes escape for the attributes that Print escapes.
func fromJSON(attribute string, raw []byte) (cty.Value, error) {
	typ, err := ctyjson.ImpliedType(raw)
	if err != nil {
		return cty.NilVal, err
	}
	v, err := ctyjson.Unmarshal(raw, typ)
	if err != nil || !slices.Contains([]string{"args", "labels", "annotations", "dockerfile-inline", "extra-hosts"},
		attribute) {
		return v, err
	}
	return cty.Transform(v, func(_ cty.Path, v cty.Value) (cty.Value, error) {
		if v.Type() == cty.String {
			return cty.StringVal(strings.NewReplacer("$${", "${", "%%{", "%{").Replace(v.AsString())), nil
		}
		return v, nil
	})
}
