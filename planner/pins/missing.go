package pins

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// Missing lists the keys that a graph uses and a lock does not pin. A reference with a digest needs no pin.
func Missing(l *config.Lock, g *planner.Graph) []string {
	var list []string
	for _, b := range g.Bases {
		if !strings.Contains(b.Ref, "@") && l.Pin(b.Ref) == "" {
			list = append(list, b.Ref)
		}
	}
	for _, s := range g.Sources {
		if l.Pin(s.Key) == "" {
			list = append(list, s.Key)
		}
	}
	return list
}

// Unused lists the keys of a lock that a graph does not use.
func Unused(l *config.Lock, g *planner.Graph) []string {
	used := map[string]bool{}
	for _, key := range usedKeys(g) {
		used[key] = true
	}
	return slices.DeleteFunc(l.Keys(), func(key string) bool { return used[key] })
}

// CheckUnused returns a *planner.LockError if a lock has pins that the graph of the whole project does not use.
func CheckUnused(l *config.Lock, g *planner.Graph) error {
	if extra := Unused(l, g); len(extra) > 0 {
		return &planner.LockError{What: fmt.Sprintf("%s has unused pins: %s; remove them and commit the file: bake pin",
			config.LockName, strings.Join(extra, ", "))}
	}
	return nil
}

// usedKeys lists the references, git repositories and URLs that a graph uses.
func usedKeys(g *planner.Graph) []string {
	var keys []string
	for _, b := range g.Bases {
		keys = append(keys, b.Ref)
	}
	for _, s := range g.Sources {
		keys = append(keys, s.Key)
	}
	return keys
}
