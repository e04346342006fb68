package config

import (
	"maps"
	"slices"
)

// combine is what two values come to, the second being of higher rank. Neither is changed.
func (a attribute) combine(low, high any) any {
	if high == nil {
		return low
	}
	if low == nil || a.merge == mergeReplace {
		return high
	}
	switch h := high.(type) {
	case []string:
		if a.merge == mergeRepeat {
			return append(slices.Clone(low.([]string)), h...)
		}
		return unique(append(slices.Clone(low.([]string)), h...))
	case map[string]string:
		all := maps.Clone(low.(map[string]string))
		maps.Copy(all, h)
		return all
	case []Secret:
		return byID(low.([]Secret), h, func(s Secret) string { return s.ID })
	case []SSH:
		return byID(low.([]SSH), h, func(s SSH) string { return s.ID })
	case []Test:
		return byID(low.([]Test), h, func(t Test) string { return t.Name })
	case []Attrs:
		if a.merge == mergeID {
			return byID(low.([]Attrs), h, func(m Attrs) string { return m["type"] })
		}
		return distinct(append(slices.Clone(low.([]Attrs)), h...))
	}
	return high
}

// normalised is a value when all that says something of it was combined: entries with one id are one, and contexts that are
// empty are none.
func (a attribute) normalised(value any) any {
	switch v := value.(type) {
	case map[string]string:
		if a.name == "contexts" {
			v = maps.Clone(v)
			maps.DeleteFunc(v, func(_, context string) bool { return context == "" })
			return v
		}
	case []Secret:
		return byID(nil, v, func(s Secret) string { return s.ID })
	case []SSH:
		return byID(nil, v, func(s SSH) string { return s.ID })
	case []Test:
		return byID(nil, v, func(t Test) string { return t.Name })
	case []Attrs:
		if a.merge != mergeID {
			return distinct(slices.Clone(v))
		}
		return byID(nil, v, func(m Attrs) string { return m["type"] })
	}
	return value
}

// distinct leaves of equal entries one, in the order that Docker Bake has then: from the end, the last entry takes the place
// of a later equal one.
func distinct(all []Attrs) []Attrs {
	for i := len(all) - 2; i >= 0; i-- {
		same := slices.IndexFunc(all[i+1:], func(m Attrs) bool { return maps.Equal(m, all[i]) })
		if same < 0 {
			continue
		}
		last := len(all) - 1
		all[i+1+same] = all[last]
		all = all[:last]
	}
	return all
}

// byID adds the elements of high to low; one with the id of an earlier one takes its place.
func byID[T any](low, high []T, id func(T) string) []T {
	all := []T{}
	for _, h := range slices.Concat(low, high) {
		if i := slices.IndexFunc(all, func(l T) bool { return id(l) == id(h) }); i >= 0 {
			all[i] = h
			continue
		}
		all = append(all, h)
	}
	return all
}

// unique drops empty strings and repetitions.
func unique(all []string) []string {
	seen := map[string]bool{"": true}
	kept := make([]string, 0, len(all))
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}
