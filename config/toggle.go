package config

import (
	"maps"
	"slices"
)

// toggled are the outputs with pushing or loading switched on or off, as Docker Bake does it. The list is not changed.
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

// withPush pushes the images among the outputs. Where there is nothing but loads into Docker, a push is added.
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

// withoutPush takes pushes away. The last output takes the place of one that goes, as in Docker Bake.
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

// withLoad adds a load into Docker where there is none, and nothing but images.
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
