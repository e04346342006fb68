package config

import (
	"maps"
	"slices"
	"strconv"
)

// implySecrets sets the source of secrets that have none, by BuildKit's rule: the variable named by the ID or, if it is
// not set, the file of that name.
func (t *Target) implySecrets(env map[string]string) {
	for i, s := range t.Secrets {
		if s.Src != "" || s.Env != "" {
			continue
		}
		t.Secrets = slices.Clone(t.Secrets) // heirs may share the list
		s.Implied = true
		if _, ok := env[s.ID]; ok {
			s.Env = s.ID
		} else {
			s.Src = s.ID
		}
		t.Secrets[i] = s
	}
}

// implyOutputs sets the destination of archives that have none: standard output.
func (t *Target) implyOutputs() {
	for i, out := range t.Outputs {
		isFile := out["type"] == "tar"
		if tar, err := strconv.ParseBool(out["tar"]); out["type"] == "oci" && (err != nil || tar) {
			isFile = true
		}
		if isFile && out["dest"] == "" {
			t.Outputs = slices.Clone(t.Outputs)
			t.Outputs[i] = maps.Clone(out)
			t.Outputs[i]["dest"] = "-"
		}
	}
}
