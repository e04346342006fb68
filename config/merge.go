package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// combine merges two values of an attribute and changes neither. high takes precedence over low.
//
// The value of an attribute has up to four sources, by increasing precedence: the parents in the written order, the
// blocks of the target in the order of the files, and --set in the order of the command line. loader.valueFor applies
// them with combine, which follows the merge rule in the table of attributes, and finally calls normalised. Entries
// are deduplicated after each step, because the order of the result must be the same as Docker Bake's: TestAsPeer
// compares it. nil means not set and changes nothing; an empty list is a value and, where the rule is mergeReplace,
// clears.
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

// normalised returns the final value after all sources are combined. Of entries with the same ID the last one remains,
// and contexts with an empty value are removed.
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

// distinct removes duplicates from all, which it overwrites. The order is Docker Bake's: scanning from the end, the
// last entry moves into the place of a later duplicate.
func distinct(all []Attrs) []Attrs {
	if len(all) < 2 {
		return all
	}
	at := make(map[string]int, len(all)) // of the entries after i, which are distinct
	for i := len(all) - 1; i >= 0; i-- {
		key := all[i].identity()
		if same, ok := at[key]; ok {
			last := len(all) - 1
			at[all[last].identity()] = same
			all[same] = all[last]
			all = all[:last]
		}
		at[key] = i
	}
	return all
}

// identity returns a text that is equal for equal attributes.
func (m Attrs) identity() string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%q=%q,", key, m[key])
	}
	return b.String()
}

// byID returns the elements of low and high. An element replaces an earlier one with the same ID, in its place.
func byID[T any](low, high []T, id func(T) string) []T {
	all, at := make([]T, 0, len(low)+len(high)), map[string]int{}
	for _, h := range slices.Concat(low, high) {
		if i, ok := at[id(h)]; ok {
			all[i] = h
			continue
		}
		at[id(h)] = len(all)
		all = append(all, h)
	}
	return all
}

// unique returns the strings without empty ones and repetitions.
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
