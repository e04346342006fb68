package keys

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/bakebuild/bake/executor/cache/key"
	"github.com/bakebuild/bake/executor/tree"
)

// Difference is a name whose parts differ in two lists. Old or New is empty where a list has no such part.
type Difference struct {
	Name     string
	Old, New []key.Part
}

// Compare returns the names whose parts differ: those of the second list in its order, then the rest. pending reports
// whether the part is not computed yet; a pending part is not a difference.
func Compare(old, now []key.Part, pending func(name string) bool) []Difference {
	before, after := byName(old), byName(now)
	var all []Difference
	for _, name := range names(old, now) {
		a, b := before[name], after[name]
		same := slices.EqualFunc(a, b, func(p, q key.Part) bool { return p.Digest == q.Digest })
		if !same && (len(b) > 0 || !pending(name)) {
			all = append(all, Difference{name, a, b})
		}
	}
	return all
}

// Distance counts the parts of either list that the other one does not have with the same value.
func Distance(old, now []key.Part) int {
	type part struct{ name, digest string }
	have := map[part]int{}
	for _, p := range old {
		have[part{p.Name, p.Digest}]++
	}
	n := len(old)
	for _, p := range now {
		if have[part{p.Name, p.Digest}]--; have[part{p.Name, p.Digest}] >= 0 {
			n--
		} else {
			n++
		}
	}
	return n
}

// byName returns the parts of each name, in order.
func byName(list []key.Part) map[string][]key.Part {
	all := map[string][]key.Part{}
	for _, p := range list {
		all[p.Name] = append(all[p.Name], p)
	}
	return all
}

// names returns the names of the parts of both lists, each once: those of the second in its order, then the rest.
func names(old, now []key.Part) []string {
	var list []string
	for _, p := range slices.Concat(now, old) {
		if !slices.Contains(list, p.Name) {
			list = append(list, p.Name)
		}
	}
	return list
}

// Values returns the values of parts for people, "" where one has none.
func Values(list []key.Part) string {
	var all []string
	for _, p := range list {
		if p.Value == "" {
			return ""
		}
		all = append(all, p.Value)
	}
	return strings.Join(all, ", ")
}

// Texts returns the values of parts for people, or their digests where they have none.
func Texts(list []key.Part) string {
	var all []string
	for _, p := range list {
		all = append(all, cmp.Or(p.Value, p.Digest))
	}
	return ShortText(strings.Join(all, ", "))
}

// ChangedFiles returns the differences of two listings without directories, unless only directories differ.
func ChangedFiles(before, after tree.Listing) []tree.Difference {
	all := tree.Differences(before, after)
	files := slices.DeleteFunc(slices.Clone(all), func(d tree.Difference) bool { return isDir(d.Old) || isDir(d.New) })
	if len(files) == 0 {
		return all
	}
	return files
}

func isDir(f *tree.ListedFile) bool { return f != nil && f.Mode&tree.ModeType == tree.ModeDir }

// How returns how a file changed: added, removed, changed, or its modes.
func How(d tree.Difference) string {
	switch {
	case d.Old == nil:
		return "added"
	case d.New == nil:
		return "removed"
	case d.Old.Sum == d.New.Sum && d.Old.Mode&tree.ModeType == d.New.Mode&tree.ModeType:
		return fmt.Sprintf("mode %04o → %04o", d.Old.Mode&0o7777, d.New.Mode&0o7777)
	}
	return "changed"
}
