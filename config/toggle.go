package config

import (
	"maps"
	"slices"
)

// toggled returns the outputs with push or load switched on or off, as in Docker Bake. It does not change outputs.
func (o *override) toggled(outputs []Attrs) []Attrs {
	switch {
	case o.toggle == "load" && o.on:
		return withLoad(outputs)
	case o.toggle == "load":
		return outputs
	case o.on:
		return withPush(outputs)
	}
	return withoutPush(outputs)
}

// withPush makes image outputs push. If all outputs load into Docker, or there are none, it adds a push.
func withPush(outputs []Attrs) []Attrs {
	var all []Attrs
	add := true
	for _, out := range outputs {
		add = add && out["type"] == "docker"
		if out["type"] == "image" {
			out = maps.Clone(out)
			out["push"] = "true"
		}
		all = append(all, out)
	}
	if add {
		all = append(all, Attrs{"type": "image", "push": "true"})
	}
	return all
}

// withoutPush removes pushes. The last output moves into the place of a removed one, as in Docker Bake.
func withoutPush(outputs []Attrs) []Attrs {
	all := slices.Clone(outputs)
	for i := 0; i < len(all); {
		switch all[i]["type"] {
		case "registry":
			all[i] = all[len(all)-1]
			all = all[:len(all)-1]
			continue
		case "image":
			all[i] = maps.Clone(all[i])
			all[i]["push"] = "false"
		}
		i++
	}
	return all
}

// withLoad adds a load into Docker if there is none and all outputs are images.
func withLoad(outputs []Attrs) []Attrs {
	for _, out := range outputs {
		switch out["type"] {
		case "docker":
			if out["dest"] == "" {
				return outputs
			}
		case "image", "registry", "oci":
		default:
			return outputs
		}
	}
	return append(outputs[:len(outputs):len(outputs)], Attrs{"type": "docker"})
}
